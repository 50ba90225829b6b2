"""Files behind http(s) and s3 URLs, as they are asked for; nothing is kept here."""
