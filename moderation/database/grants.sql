-- Least privilege: each part of the system can do its own work and no other's.
-- Run by `bonafide migrate` with the rights of the tables' owner, again and again without harm.
GRANT USAGE ON SCHEMA public TO bonafide_intake, bonafide_worker, bonafide_sweeper, bonafide_reviewer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO bonafide_intake, bonafide_worker, bonafide_sweeper, bonafide_reviewer;
REVOKE SELECT ON api_keys FROM bonafide_worker, bonafide_sweeper, bonafide_reviewer;
REVOKE SELECT ON people, sign_ins, sign_in_failures FROM bonafide_intake, bonafide_worker, bonafide_sweeper;
-- Which reviewer an API key acts for: nothing that they sign in with.
GRANT SELECT (id, email, name, role, preferences, created_at, disabled_at, first_password) ON people TO bonafide_intake;
-- Nobody needs to see a picture who neither shows nor copies it.
REVOKE SELECT ON renditions FROM bonafide_intake, bonafide_sweeper;
GRANT SELECT (case_id, created_at), DELETE ON renditions TO bonafide_sweeper;
-- Whoever tells of a move must know who is to be told. Only who delivers, or shows the settings, knows the secrets.
REVOKE SELECT ON endpoints FROM bonafide_intake, bonafide_worker;
GRANT SELECT (id, kinds, source, disabled_at) ON endpoints TO bonafide_intake, bonafide_worker;

-- Everybody may add to the log, nobody may change it (a trigger forbids that even to the owner).
GRANT INSERT ON events TO bonafide_intake, bonafide_worker, bonafide_sweeper, bonafide_reviewer;

-- Intake opens cases and marks that it rang for them.
GRANT INSERT ON cases TO bonafide_intake;
GRANT UPDATE (rung_at) ON cases TO bonafide_intake;
GRANT UPDATE (last_used_at) ON api_keys TO bonafide_intake;

-- A worker moves a case under its lease and writes analyses. It cannot touch what was asked, nor the keys; but it notes
-- which version of the image it read.
GRANT USAGE ON SEQUENCE lease_tokens TO bonafide_worker;
GRANT UPDATE (state, version, attempts, postponements, due_at, rung_at, lease_token, lease_owner, lease_expires_at,
              refusal_code, refusal_message, ready_at, queued_at, analysis_id, label, technique, version_id)
    ON cases TO bonafide_worker;
GRANT INSERT, UPDATE ON evidence, renditions TO bonafide_worker;
-- And what the picture looks like: one line for all cases that look exactly so, which it locks by writing it anew.
GRANT INSERT, UPDATE (hash, leader) ON hashes TO bonafide_worker;
GRANT INSERT ON case_hashes TO bonafide_worker;
GRANT UPDATE (campaign) ON cases TO bonafide_worker;

-- A certificate moves a case in the queue when it becomes ready. An admin turns it on and off; the sweeper revokes it.
GRANT UPDATE (certificate_id) ON cases TO bonafide_worker;
GRANT UPDATE (used_since, used_by, closes_since, closes_by, version) ON certificates TO bonafide_reviewer;
GRANT UPDATE (audited_n, audited_errors, audited_at, revoked_at, revoked_because, version)
    ON certificates TO bonafide_sweeper;
GRANT INSERT ON certificate_events TO bonafide_reviewer, bonafide_sweeper;
GRANT INSERT ON analyses, artifacts, effects, dead_letters, deliveries, reruns TO bonafide_worker;
GRANT UPDATE (answer, failure, fingerprint, bundle, seconds, answered_at, begun_at, attempts) ON questions TO bonafide_worker;
GRANT INSERT, UPDATE, DELETE ON heartbeats TO bonafide_worker, bonafide_sweeper;

-- It says which bundles it was started with and takes what was asked for once more. Which of them serves it is told.
GRANT INSERT, UPDATE (name, last_seen) ON bundles TO bonafide_worker;
GRANT UPDATE (rung_at, begun_at, attempts, done_at, failure) ON reruns TO bonafide_worker;

-- The sweeper takes back leases that ran out and rings again.
GRANT UPDATE (state, version, expired_leases, due_at, rung_at, lease_token, lease_owner, lease_expires_at,
              refusal_code, refusal_message, ready_at, queued_at) ON cases TO bonafide_sweeper;

-- It also delivers webhooks, forgets what was delivered long ago, and rings for questions.
GRANT UPDATE (due_at, attempts, delivered_at, dead_at, last_status, last_error) ON deliveries TO bonafide_sweeper;
GRANT UPDATE (rung_at, failure, answered_at) ON questions TO bonafide_sweeper;
GRANT UPDATE (rung_at, failure, done_at) ON reruns TO bonafide_sweeper;
GRANT INSERT, DELETE ON deliveries TO bonafide_sweeper;
-- What somebody had begun to write is for them alone; after a day it is forgotten.
REVOKE SELECT ON drafts FROM bonafide_intake, bonafide_worker, bonafide_sweeper;
GRANT SELECT (at) ON drafts TO bonafide_sweeper;
GRANT DELETE ON drafts TO bonafide_sweeper;

-- Reviewers, by the console or by a platform's key, decide. They touch no verdict and nothing that was asked.
GRANT USAGE ON SEQUENCE lease_tokens TO bonafide_reviewer;
GRANT UPDATE (state, version, stage, ready_at, queued_at, decided_at) ON cases TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON claims TO bonafide_reviewer;
GRANT INSERT ON decisions, blind_judgements, artifact_answers, skips, appeals, questions, views TO bonafide_reviewer;
GRANT UPDATE (undone_at) ON decisions TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON drafts TO bonafide_reviewer;
GRANT UPDATE (resolved_by) ON appeals TO bonafide_reviewer;
-- A platform that takes an image back takes it out of a worker's hands too.
GRANT UPDATE (withdrawn_at, lease_token, lease_owner, lease_expires_at) ON cases TO bonafide_reviewer;
-- What is asked about a case that a platform has erased or taken back ends there.
GRANT UPDATE (rung_at, failure, answered_at) ON questions TO bonafide_reviewer;
GRANT INSERT, UPDATE ON people TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON sign_ins, sign_in_failures TO bonafide_reviewer;
GRANT INSERT, UPDATE, DELETE ON endpoints, deliveries TO bonafide_reviewer;

-- Retention, and a platform that asks for it: the one way to take a text away, for a case that ended and nothing else.
GRANT EXECUTE ON FUNCTION erase_case(uuid, text) TO bonafide_sweeper, bonafide_reviewer;

-- Archives: what old cases consist of leaves for an object and comes back from it, by these functions and in no other
-- way. An archived case is erased by whoever can take it out of its object.
GRANT USAGE ON SCHEMA public TO bonafide_archiver;
GRANT SELECT ON cases, events, analyses, artifacts, effects, evidence, decisions, artifact_answers, blind_judgements, appeals,
                questions, skips, views, deliveries, reruns, archives, alembic_version TO bonafide_archiver;
GRANT INSERT, UPDATE, DELETE ON archives TO bonafide_archiver;
-- What waits for an endpoint that is disabled keeps no case here.
GRANT SELECT (id, disabled_at) ON endpoints TO bonafide_archiver;
-- Whoever locks a row must be allowed to change something of it.
GRANT UPDATE (archive_id) ON cases TO bonafide_archiver;
GRANT EXECUTE ON FUNCTION archive_cases(uuid[], bigint), restore_case(jsonb), erase_case(uuid, text)
    TO bonafide_archiver;
