"""Settings and what runs in, findings out: what is wrong with an installation, why, and how it is mended."""
