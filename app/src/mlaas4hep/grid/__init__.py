"""What lets this service read the grid's data: certificate, proxy, token, CAs."""
