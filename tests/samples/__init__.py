"""What the upstream's page says, transcribed, with a reader and a judge that know nothing of the catalogue."""
