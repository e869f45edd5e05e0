-- A login for each kind of process, with the rights of its role and no others. An administrator runs this after
-- `bonafide migrate` has made the roles, with psql 15 or later and passwords from your secret manager:
--   export POSTGRES_CONSOLE_PASSWORD=… POSTGRES_WORKER_PASSWORD=… POSTGRES_SWEEPER_PASSWORD=…
--   export POSTGRES_ARCHIVER_PASSWORD=… POSTGRES_SCALER_PASSWORD=…      (only where you archive, and with KEDA)
--   psql --dbname=bonafide --file=deploy/sql/users.sql
-- A login whose variable is not set is left as it is. A login that exists gets the password: run this again to change one.
-- The owner, who migrates, is whoever owns the database.

\set ON_ERROR_STOP on
\set console ''
\set worker ''
\set sweeper ''
\set archiver ''
\set scaler ''
\getenv console POSTGRES_CONSOLE_PASSWORD
\getenv worker POSTGRES_WORKER_PASSWORD
\getenv sweeper POSTGRES_SWEEPER_PASSWORD
\getenv archiver POSTGRES_ARCHIVER_PASSWORD
\getenv scaler POSTGRES_SCALER_PASSWORD

SELECT format(CASE WHEN to_regrole(login) IS NULL THEN 'CREATE USER %I PASSWORD %L' ELSE 'ALTER USER %I PASSWORD %L' END,
              login, password) ||
       CASE WHEN to_regrole(login) IS NULL AND role IS NOT NULL THEN format(' IN ROLE %I', role) ELSE '' END
FROM (VALUES ('bonafide_console', 'bonafide_web', :'console'),
             ('bonafide_worker_1', 'bonafide_worker', :'worker'),
             ('bonafide_sweeper_1', 'bonafide_sweeper', :'sweeper'),
             ('bonafide_archiver_1', 'bonafide_archiver', :'archiver'),
             ('bonafide_scaler', NULL, :'scaler')) AS wanted (login, role, password)
WHERE password <> '' \gexec

-- KEDA looks at how long the line is, and at nothing else.
SELECT to_regrole('bonafide_scaler') IS NOT NULL AS scaled \gset
\if :scaled
GRANT USAGE ON SCHEMA public TO bonafide_scaler;
GRANT SELECT (id, state, created_at, due_at) ON cases TO bonafide_scaler;
GRANT SELECT (id, answered_at) ON questions TO bonafide_scaler;
GRANT SELECT (id, done_at) ON reruns TO bonafide_scaler;
ALTER ROLE bonafide_scaler CONNECTION LIMIT 5;
ALTER ROLE bonafide_scaler SET statement_timeout = '5s';
ALTER ROLE bonafide_scaler SET default_transaction_read_only = on;
\endif
