"""The record of a run: its values, its folder, its verdict. Readable without the rest of the harness."""
