-- Where in the handler's code a failed attempt's error came from: a traceback, cut to 8 KB by the worker.

SET LOCAL lock_timeout = '100ms';
ALTER TABLE scheduler.attempts ADD COLUMN trace text;
