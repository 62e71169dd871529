"""What tests of several folders share; tests/pytest.ini and app/pyproject.toml make it found."""
