-- The roles. `bonafide migrate` creates them if its user may create roles. Otherwise an administrator runs this once.
-- Then `bonafide migrate` grants their rights: grants.sql. They cannot log in; grant them to users that can:
--   CREATE USER worker_1 PASSWORD '…' IN ROLE bonafide_worker;
DO $$
DECLARE wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['bonafide_intake', 'bonafide_worker', 'bonafide_sweeper', 'bonafide_reviewer',
                                 'bonafide_web', 'bonafide_archiver'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- Roles belong to the whole server: another database of it may have made them already.
        END;
    END LOOP;
    -- The API and the console are one process, so it has both roles. Only a role's creator may grant this.
    IF NOT (pg_has_role('bonafide_web', 'bonafide_intake', 'MEMBER')
            AND pg_has_role('bonafide_web', 'bonafide_reviewer', 'MEMBER')) THEN
        GRANT bonafide_intake, bonafide_reviewer TO bonafide_web;
    END IF;
END $$;
