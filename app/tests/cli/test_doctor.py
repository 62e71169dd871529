from __future__ import annotations

import json


def test_doctor_of_a_file_that_can_be_read(command, five_files):
    ended = command("doctor", "signal.root")
    assert ended.code == 0, ended.err
    assert "signal.root can be read" in ended.out
    assert "a whole ROOT file with events" in ended.out


def test_doctor_says_what_is_wrong_and_what_to_do(command, five_files):
    (five_files / "short.root").write_bytes((five_files / "signal.root").read_bytes()[:-1])
    ended = command("doctor", "short.root")
    assert ended.code == 1
    assert "error: short.root is truncated" in ended.err
    assert "Copy the file again" in ended.err
    assert "failed" in ended.out


def test_doctor_for_programs(command, five_files):
    ended = command("doctor", "none.root", "--json")
    assert ended.code == 1
    document = json.loads(ended.out)
    assert document.keys() == {"file", "ok", "problem", "remedy", "seconds", "steps"}
    assert (document["file"], document["ok"]) == ("none.root", False)
    assert "no such file" in document["problem"]
    assert document["steps"][-1] == {
        "what": "file",
        "state": "failed",
        "found": document["problem"],
        "remedy": document["remedy"],
        "details": {},
    }
