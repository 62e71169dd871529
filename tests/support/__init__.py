"""What tests of several folders share; tests/pytest.ini makes it found."""
