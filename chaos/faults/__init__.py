"""What can be broken, one family a file; the nemesis plays it, Toxiproxy does the links."""
