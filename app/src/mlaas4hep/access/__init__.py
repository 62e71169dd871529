"""Authentication: bearer tokens of an OpenID Connect issuer, allowed groups, owners."""
