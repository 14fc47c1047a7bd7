"""Preference data from elsewhere, read on the client's side: files → rows → groups → `POST /v1/import`.

`formats` knows the public sets' columns; everything behind it sees `ImportedGroup` alone.
"""
