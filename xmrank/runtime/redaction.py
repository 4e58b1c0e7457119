"""Credentials in URIs: left out wherever a URI is written or printed."""

import logging
import re
from typing import TypeVar

MARK = "***"
"""What is shown instead of a credential."""

SCHEME = r"(?:\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2}|(?<![\w:/.])//)(?!/)"
"""It may be left out: //user:secret@host. Path() folds the second slash of a URI: s3:/key:secret@bucket is one too."""
USER = re.compile(
    rf"(?P<scheme>{SCHEME})(?P<user>"
    # user:password@. A number behind the colon is a port. A password may hold an @, or a / that was not quoted.
    r"[^/@\s\[]*:(?!\d*(?:[/?#\s]|$))(?:[^/\s]*@|[^@\s]*@)"
    # user@ or token@
    r"|[^/@:\s]+@)"
)
PARAMETER = re.compile(
    # The names that stores and servers use: X-Amz-Signature, AWSAccessKeyId, sig, access_token, ...
    r"(?P<start>[?&;#])(?P<name>[\w.%-]*(?:sig|token|key|secret|passw|pwd|credential|auth)[\w.%-]*"
    # Short words, which are parts of others: not compass, encode.
    r"|(?:[\w.%-]*[_.-])?(?:pass|code|jwt|sas|session|access|bearer)(?:[_.-][\w.%-]*)?)="
    # A value in quotes ends with them. Punctuation at the end belongs to the sentence.
    r"(?:\"[^\"\s]*\"|'[^'\s]*'|[^&\s\"'<>]*?(?=[:,.)\]}]*(?:[&\s\"'<>]|$)))",
    re.IGNORECASE,
)
CONTAINER_SCHEMES = ("abfs:", "abfss:", "wasb:", "wasbs:")
"""Azure's schemes, in which the part before the @ is a container and not a user."""
WEB_SCHEMES = ("http:", "https:")
"""Schemes in which a user without a password is a token."""
Value = TypeVar("Value")


def redact_uri(text: str, mark: str = MARK) -> str:
    """A URI, or a text with URIs in it, without user, password, and the parameters that grant access.

    Args:
        text: a URI, a message, or any other text.
        mark: stands where something was; empty: the parts are left out, and the URI can be read with the credentials
            that the environment has.
    """
    # Most texts have none, and this is called for each line that is printed.
    if "@" in text:
        text = USER.sub(lambda match: redact_user(match, mark), text)
    if "=" in text:
        text = PARAMETER.sub(lambda match: f"{match['start']}{match['name']}={mark}" if mark else match["start"], text)
        # What is left of a query whose parameters were left out.
        text = text if mark else re.sub(r"&{2,}", "&", text).replace("?&", "?").rstrip("?&;#")
    return text


def redact_user(match: re.Match[str], mark: str) -> str:
    """The scheme and what may be kept of the user before the host."""
    scheme, (name, colon, _) = match["scheme"], match["user"].removesuffix("@").partition(":")
    if scheme.lower().startswith(CONTAINER_SCHEMES):
        return f"{scheme}{name}{colon and mark and f':{mark}'}@"
    # models:/name@alias, hdfs://user@host
    if not colon and not scheme.lower().startswith(WEB_SCHEMES):
        return match.group()
    return f"{scheme}{mark and f'{mark}@'}"


def redact_values(value: Value) -> Value:
    """A JSON value with all its texts redacted; keys are left as they are."""
    if isinstance(value, str):
        return redact_uri(value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: redact_values(item) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]  # type: ignore[return-value]
    return value


class RedactingFormatter(logging.Formatter):
    """Formats log records, those of libraries too, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return redact_uri(super().format(record))
