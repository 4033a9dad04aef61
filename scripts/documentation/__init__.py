"""The generated part of the documentation site; `hook.py` gives it to MkDocs."""
