"""How the outside talks: HTTP."""
