from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("MAX_JOBS", "HOST", "ISSUER", "ENVIRONMENTS"):
        monkeypatch.delenv(f"MLAAS4HEP_{name}", raising=False)


def test_settings_are_shown_with_where_they_come_from(command, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_MAX_JOBS", "3")
    ended = command("settings")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert "MLAAS4HEP_MAX_JOBS=3" in lines
    assert 'MLAAS4HEP_HOST="127.0.0.1"  (default)' in lines
    shown = next(line for line in lines if line.startswith("MLAAS4HEP_ENVIRONMENTS="))
    assert "default" in json.loads(shown.partition("=")[2].removesuffix("  (default)"))


def test_all_that_is_wrong_is_named_at_once(command, monkeypatch):
    monkeypatch.setenv("MLAAS4HEP_MAX_JOBS", "many")
    monkeypatch.setenv("MLAAS4HEP_EXECUTOR", "containr")
    monkeypatch.setenv("MLAAS4HEP_MAX_JOB_MEMORY", "3")
    ended = command("settings")
    assert ended.code == 2
    assert ended.out == ""
    assert "MLAAS4HEP_MAX_JOBS is 'many': it should be a valid integer; " in ended.err
    assert "or 'container'. Maximum trainings that run at once" in ended.err
    assert "MLAAS4HEP_EXECUTOR is 'containr'" in ended.err
    assert "MLAAS4HEP_MAX_JOB_MEMORY is not a setting. Did you mean" in ended.err
    assert "'MLAAS4HEP_MAX_JOB_MEMORY_BYTES'" in ended.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ENVIRONMENTS", "{", "not valid JSON"),
        ("SERVER_PORT", "80801", "MLAAS4HEP_SERVER_PORT is '80801'"),
        ("ENVIRONMENTS", "{}", "MLAAS4HEP_ENVIRONMENTS is {}"),
        ("ISSUER", "http://iam.example", "MLAAS4HEP_ISSUER is 'http://iam.example'"),
        ("ISSUER", "https://iam.example", "MLAAS4HEP_ALLOWED_GROUPS is empty"),
        ("DATA_HOSTS", "a.org,https://b.org", "'https://b.org' is not a host"),
        ("VOMSES", '"cms" "voms.example.org"', "is no line of a vomses file"),
        ("VOMS", "cms:Role=production", "MLAAS4HEP_VOMS is 'cms:Role=production'"),
        ("DATA_HOSTS", "169.254.169.254", "holds addresses that no training may reach"),
    ],
)
def test_wrong_values_of_other_kinds(command, monkeypatch, name, value, said):
    monkeypatch.setenv(f"MLAAS4HEP_{name}", value)
    ended = command("settings")
    assert ended.code == 2
    assert said in ended.err


def test_a_service_starts_in_spite_of_a_variable_that_is_no_setting(command, monkeypatch, tmp_path):
    monkeypatch.setenv("MLAAS4HEP_MAXJOBS", "3")
    ended = command("admin", "users", "--store", tmp_path)
    assert ended.code == 0
    assert "MLAAS4HEP_MAXJOBS is not a setting. Did you mean 'MLAAS4HEP_MAX_JOBS'" in ended.err


def test_a_data_proxy_needs_a_folder_and_hosts(command, monkeypatch, tmp_path):
    monkeypatch.setenv("MLAAS4HEP_DATA_PROXY", str(tmp_path))
    ended = command("data-proxy")
    assert ended.code == 2
    assert "MLAAS4HEP_DATA_HOSTS" in ended.err
