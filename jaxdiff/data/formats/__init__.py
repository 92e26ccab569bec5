"""File formats that sources read: ZIP, NPZ, shards of records, and listings of folders."""
