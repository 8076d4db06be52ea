-- What a database keeps to, whoever starts on it: the name of its stream, as the first process gave it.
CREATE TABLE scheduler.settings (name text PRIMARY KEY, value text NOT NULL);
