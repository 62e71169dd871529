"""Who is asking: bearer tokens of an OpenID Connect issuer, the groups let in, who owns what."""
