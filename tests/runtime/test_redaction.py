"""Credentials in URIs are left out of texts; everything else stays."""

import logging
import pickle

import pytest

from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.redaction import RedactingFormatter, redact_uri, redact_values

KEPT = [
    "s3://bucket/a@b/c.jpg",
    "s3://bucket/pairs.tar::17.jpg@1536+20480",
    "http://host:5000/a@b?page=2",
    "http://[::1]:5000/a@b",
    "http://host:5000?x=a@b",
    "hdfs://user@host/x",
    "abfss://container@account.dfs.core.windows.net/x",
    "models:/xmrank-i2t@champion",
    "sqlite:////home/a:b@c/mlflow.db",
    "/data/a:b@c/x",
    "embed: 4 images, lists=3",
    "",
]


@pytest.mark.parametrize("text", KEPT)
@pytest.mark.parametrize("mark", ["***", ""])
def test_a_text_without_credentials_stays(text, mark):
    assert redact_uri(text, mark) == text


@pytest.mark.parametrize(
    ("uri", "shown", "readable"),
    [
        ("http://me:SECRET@host:5000/x", "http://***@host:5000/x", "http://host:5000/x"),
        ("https://SECRET@host/x", "https://***@host/x", "https://host/x"),
        ("postgresql://me:SEC@RET@host/db", "postgresql://***@host/db", "postgresql://host/db"),
        ("s3://AKIA:SEC/RET@bucket/x", "s3://***@bucket/x", "s3://bucket/x"),
        ("s3:/AKIA:SECRET@bucket/x", "s3:/***@bucket/x", "s3:/bucket/x"),
        ("redis://:SECRET@host/x", "redis://***@host/x", "redis://host/x"),
        ("abfss://box:SECRET@account.net/x", "abfss://box:***@account.net/x", "abfss://box@account.net/x"),
        ("https://h/x?X-Amz-Signature=SECRET&v=1", "https://h/x?X-Amz-Signature=***&v=1", "https://h/x?v=1"),
        ("https://h/x?v=1&sig=SECRET", "https://h/x?v=1&sig=***", "https://h/x?v=1"),
        ("https://h/x?v=1&token=SECRET&w=2", "https://h/x?v=1&token=***&w=2", "https://h/x?v=1&w=2"),
        ("https://h/x?AWSAccessKeyId=SECRET", "https://h/x?AWSAccessKeyId=***", "https://h/x"),
        ("https://h/x?client_secret=SECRET", "https://h/x?client_secret=***", "https://h/x"),
        ("s3://b/x?access_key=SECRET&secret_key=SECRET", "s3://b/x?access_key=***&secret_key=***", "s3://b/x"),
        ("https://h/x?code=SECRET&compass=1", "https://h/x?code=***&compass=1", "https://h/x?compass=1"),
        ("https://h/x?pass=SECRET&encode=1", "https://h/x?pass=***&encode=1", "https://h/x?encode=1"),
        ("https://h/x?jwt=SECRET&sas=SECRET", "https://h/x?jwt=***&sas=***", "https://h/x"),
        ("https://h/x?my_session=SECRET", "https://h/x?my_session=***", "https://h/x"),
        ("https://h/x?session-id=SECRET", "https://h/x?session-id=***", "https://h/x"),
        ('https://h/x?token="SECRET"&v=1', "https://h/x?token=***&v=1", "https://h/x?v=1"),
        ("//me:SECRET@host/x", "//***@host/x", "//host/x"),
        ("https://h/x#access_token=SECRET", "https://h/x#access_token=***", "https://h/x"),
    ],
)
def test_credentials_of_a_uri_are_left_out(uri, shown, readable):
    assert redact_uri(uri) == shown
    assert redact_uri(uri, "") == readable
    assert redact_uri(redact_uri(uri)) == shown


def test_every_uri_in_a_message_is_redacted_and_its_punctuation_stays():
    message = "http://me:SECRET@a/x: no such file (http://b/y?token=SECRET): see '/api?key=SECRET', https://SECRET@c."
    assert redact_uri(message) == (
        "http://***@a/x: no such file (http://b/y?token=***): see '/api?key=***', https://***@c."
    )


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_an_error_holds_no_credentials(kind):
    error = kind("http://me:SECRET@host/x: no such file (--images)")
    assert str(error) == "http://***@host/x: no such file (--images)"
    assert b"SECRET" not in pickle.dumps(error)


def test_values_are_redacted_at_any_depth():
    value = {"root": "s3://a:SECRET@b", "list": [{"reason": "http://h?sig=SECRET"}], "rows": 3, "none": None}
    assert redact_values(value) == {
        "root": "s3://***@b", "list": [{"reason": "http://h?sig=***"}], "rows": 3, "none": None
    }  # fmt: skip


def test_log_lines_of_libraries_are_redacted():
    record = logging.LogRecord("urllib3", logging.WARNING, "", 0, "retry of %s", ("http://a:SECRET@b",), None)
    assert RedactingFormatter("%(message)s").format(record) == "retry of http://***@b"
