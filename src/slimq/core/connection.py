"""Connections of clients to a service: checks addresses and keys, and converts errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import httpx

from slimq.core.errors import InvalidInputError, ServiceError


def open_connection(
    url: str, timeout: float, transport: httpx.BaseTransport | None, api_key: str | None
) -> httpx.Client:
    """Creates a client with one keep-alive connection, which the first request opens.

    Args:
        url: the base address.
        timeout: seconds allowed for connecting, for sending and for the response, each.
        transport: httpx transport; None for plain HTTP.
        api_key: sent as a bearer token, for a service that requires a key.

    Raises:
        ServiceError: the URL is not an http or https URL.
        InvalidInputError: the key cannot be sent in a header.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ServiceError(url, None, f"not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ServiceError(url, None, "expected an address such as http://127.0.0.1:8000")
    if api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise InvalidInputError("API key", "visible ASCII characters only", "other characters")
    return httpx.Client(
        base_url=url,
        headers={} if api_key is None else {"authorization": f"Bearer {api_key}"},
        timeout=timeout,
        transport=transport,
        limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
    )


@contextlib.contextmanager
def explaining(url: str, seconds: float | None) -> Iterator[None]:
    """Converts httpx's errors in this context to slimq's.

    Args:
        url: the address, for errors.
        seconds: the timeout, for errors.

    Raises:
        ServiceError: the service cannot be reached, or does not answer in time.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServiceError(url, None, f"no answer within {seconds:g} s") from error
    except UnicodeError as error:  # raised when sockets encode the host name as IDNA
        problem = "expected a host name with labels of 1 to 63 characters"
        raise ServiceError(url, None, problem) from error
    except httpx.HTTPError as error:
        problem = f"cannot be reached ({error}); is the service running?"
        raise ServiceError(url, None, problem) from error


def error_of(response: httpx.Response) -> ServiceError:
    """The error for an error response, with the detail of its problem document."""
    return ServiceError(str(response.url), response.status_code, _detail(response))


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or response.reason_phrase
