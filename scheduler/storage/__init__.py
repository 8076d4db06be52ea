"""Where jobs live. The only package with SQL and Redis commands; foreign exceptions stop here."""
