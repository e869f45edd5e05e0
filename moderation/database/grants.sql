-- Least privilege: each part of the system can do only its own work.
-- `bonafide migrate` runs this with the rights of the tables' owner. It can be run again without harm.
GRANT USAGE ON SCHEMA public TO bonafide_intake, bonafide_worker, bonafide_sweeper, bonafide_reviewer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO bonafide_intake, bonafide_worker, bonafide_sweeper, bonafide_reviewer;
REVOKE SELECT ON api_keys FROM bonafide_worker, bonafide_sweeper, bonafide_reviewer;
REVOKE SELECT ON people, sign_ins, sign_in_failures FROM bonafide_intake, bonafide_worker, bonafide_sweeper;
-- The reviewer that an API key acts for, without anything that they sign in with.
GRANT SELECT (id, email, name, role, preferences, created_at, disabled_at, first_password) ON people TO bonafide_intake;
-- Only those who show or copy pictures may see them.
REVOKE SELECT ON renditions FROM bonafide_intake, bonafide_sweeper;
GRANT SELECT (case_id, created_at), DELETE ON renditions TO bonafide_sweeper;
-- Those who make moves must know the endpoints. Only the courier and the settings page know the secrets.
REVOKE SELECT ON endpoints FROM bonafide_intake, bonafide_worker;
GRANT SELECT (id, kinds, source, disabled_at) ON endpoints TO bonafide_intake, bonafide_worker;

-- Everybody may add to the log, nobody may change it (a trigger forbids it even for the owner).
GRANT INSERT ON events TO bonafide_intake, bonafide_worker, bonafide_sweeper, bonafide_reviewer;

-- Intake opens cases and marks that it published them.
GRANT INSERT ON cases TO bonafide_intake;
GRANT UPDATE (rung_at) ON cases TO bonafide_intake;
GRANT UPDATE (last_used_at) ON api_keys TO bonafide_intake;

-- A worker moves a case under its lease and writes analyses. It cannot change questions or keys. It notes the version
-- of the image that it read.
GRANT USAGE ON SEQUENCE lease_tokens TO bonafide_worker;
GRANT UPDATE (state, version, attempts, postponements, due_at, rung_at, lease_token, lease_owner, lease_expires_at,
              refusal_code, refusal_message, ready_at, queued_at, analysis_id, label, technique, version_id)
    ON cases TO bonafide_worker;
GRANT INSERT, UPDATE ON evidence, renditions TO bonafide_worker;
-- It also writes the picture's hash: one row for all cases with this hash, which it locks by an update.
GRANT INSERT, UPDATE (hash, leader) ON hashes TO bonafide_worker;
GRANT INSERT ON case_hashes TO bonafide_worker;
GRANT UPDATE (campaign) ON cases TO bonafide_worker;

-- A certificate moves a case in the queue when it becomes ready. An admin turns it on and off; the sweeper revokes it.
GRANT UPDATE (certificate_id) ON cases TO bonafide_worker;
GRANT UPDATE (used_since, used_by, closes_since, closes_by, version) ON certificates TO bonafide_reviewer;
GRANT UPDATE (audited_n, audited_errors, audited_at, revoked_at, revoked_because, version)
    ON certificates TO bonafide_sweeper;
GRANT INSERT ON certificate_events TO bonafide_reviewer, bonafide_sweeper;
-- Once a week `bonafide drift` stores its findings, with the sweeper's rights.
GRANT INSERT ON drift_looks TO bonafide_sweeper;
GRANT INSERT ON analyses, artifacts, effects, dead_letters, deliveries, reruns TO bonafide_worker;
GRANT UPDATE (answer, failure, fingerprint, bundle, seconds, answered_at, begun_at, attempts) ON questions TO bonafide_worker;
GRANT INSERT, UPDATE, DELETE ON heartbeats TO bonafide_worker, bonafide_sweeper;

-- A worker notes its bundles, takes reruns, and reads which bundle serves.
GRANT INSERT, UPDATE (name, basis, basis_sources, prompts, last_seen) ON bundles TO bonafide_worker;
GRANT UPDATE (rung_at, begun_at, attempts, done_at, failure) ON reruns TO bonafide_worker;

-- The sweeper ends leases that ran out and publishes again.
GRANT UPDATE (state, version, expired_leases, due_at, rung_at, lease_token, lease_owner, lease_expires_at,
              refusal_code, refusal_message, ready_at, queued_at) ON cases TO bonafide_sweeper;

-- It also delivers webhooks, deletes old delivered ones, and publishes questions.
GRANT UPDATE (due_at, attempts, delivered_at, dead_at, last_status, last_error) ON deliveries TO bonafide_sweeper;
GRANT UPDATE (rung_at, failure, answered_at) ON questions TO bonafide_sweeper;
GRANT UPDATE (rung_at, failure, done_at) ON reruns TO bonafide_sweeper;
GRANT INSERT, DELETE ON deliveries TO bonafide_sweeper;
-- Only its writer reads a draft; it is deleted after a day.
REVOKE SELECT ON drafts FROM bonafide_intake, bonafide_worker, bonafide_sweeper;
GRANT SELECT (at) ON drafts TO bonafide_sweeper;
GRANT DELETE ON drafts TO bonafide_sweeper;

-- Reviewers decide, in the console or with a platform's key. They change no verdict and no question.
GRANT USAGE ON SEQUENCE lease_tokens TO bonafide_reviewer;
GRANT UPDATE (state, version, stage, ready_at, queued_at, decided_at) ON cases TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON claims TO bonafide_reviewer;
GRANT INSERT ON decisions, blind_judgements, artifact_answers, skips, appeals, questions, views TO bonafide_reviewer;
GRANT UPDATE (undone_at) ON decisions TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON drafts TO bonafide_reviewer;
GRANT UPDATE (resolved_by) ON appeals TO bonafide_reviewer;
-- When a platform takes an image back, its worker loses the lease.
GRANT UPDATE (withdrawn_at, lease_token, lease_owner, lease_expires_at) ON cases TO bonafide_reviewer;
-- Open questions end when a platform erases a case or takes its image back.
GRANT UPDATE (rung_at, failure, answered_at) ON questions TO bonafide_reviewer;
GRANT INSERT, UPDATE ON people TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON sign_ins, sign_in_failures TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON endpoints, deliveries TO bonafide_reviewer;

-- The one way to erase texts, by retention or for a platform: only of cases that have ended.
GRANT EXECUTE ON FUNCTION erase_case(uuid, text) TO bonafide_sweeper, bonafide_reviewer;

-- Archives: only these functions move the records of old cases to an object and back. Those who can restore an archived
-- case can erase it.
GRANT USAGE ON SCHEMA public TO bonafide_archiver;
GRANT SELECT ON cases, events, analyses, artifacts, effects, evidence, decisions, artifact_answers, blind_judgements, appeals,
                questions, skips, views, deliveries, reruns, archives, alembic_version TO bonafide_archiver;
GRANT INSERT, UPDATE, DELETE ON archives TO bonafide_archiver;
-- Deliveries for a disabled endpoint do not keep a case from the archive.
GRANT SELECT (id, disabled_at) ON endpoints TO bonafide_archiver;
-- To lock a row, a role needs the right to change some of its columns.
GRANT UPDATE (archive_id) ON cases TO bonafide_archiver;
GRANT EXECUTE ON FUNCTION archive_cases(uuid[], bigint), restore_case(jsonb), erase_case(uuid, text)
    TO bonafide_archiver;
