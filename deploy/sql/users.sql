-- A login for each kind of process, with the rights of its role and no others. Run once by an administrator, after
-- `bonafide migrate` has made the roles, with passwords from your secret manager:
--   psql --set=console=… --set=worker=… --set=sweeper=… --set=archiver=… --set=scaler=… --file=deploy/sql/users.sql
-- The owner, who migrates, is whoever owns the database.

CREATE USER bonafide_console PASSWORD :'console' IN ROLE bonafide_web;
CREATE USER bonafide_worker_1 PASSWORD :'worker' IN ROLE bonafide_worker;
CREATE USER bonafide_sweeper_1 PASSWORD :'sweeper' IN ROLE bonafide_sweeper;
CREATE USER bonafide_archiver_1 PASSWORD :'archiver' IN ROLE bonafide_archiver;

-- KEDA looks at how long the line is, and at nothing else.
CREATE USER bonafide_scaler PASSWORD :'scaler' CONNECTION LIMIT 5;
GRANT USAGE ON SCHEMA public TO bonafide_scaler;
GRANT SELECT (id, state, created_at, due_at) ON cases TO bonafide_scaler;
GRANT SELECT (id, answered_at) ON questions TO bonafide_scaler;
GRANT SELECT (id, done_at) ON reruns TO bonafide_scaler;
ALTER ROLE bonafide_scaler SET statement_timeout = '5s';
ALTER ROLE bonafide_scaler SET default_transaction_read_only = on;
