"""The HTTP server against requests that a browser would not send, and many at once."""

import http.client
import io
import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dyhead_jax import command
from dyhead_jax.demo import __main__ as demo
from dyhead_jax.demo.server import MAX_UPLOAD, Server
from dyhead_jax.evaluation import trained_model
from tests.demo.serving import FixedAnswers, serving


def png(width=20, height=10):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def answers():
    return FixedAnswers()


@pytest.fixture(scope="module")
def server(answers):
    with serving(answers) as server:
        yield server


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    if body is not None and "Content_Length" not in headers:
        headers["Content_Length"] = str(len(body))
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    if body is not None:
        connection.send(body)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response, data


def test_the_page_is_whole_and_names_cannot_end_its_script(server):
    response, page = ask(server, "GET", "/")
    assert response.status == 200
    assert response.getheader("Content-Type") == "text/html; charset=utf-8"
    text = page.decode()
    assert "@MODEL@" not in text
    assert "@MAX_UPLOAD@" not in text
    assert "</script><b>" not in text
    start = text.index('id="model">') + len('id="model">')
    assert json.loads(text[start : text.index("</script>", start)]) == FixedAnswers().about()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    policy = response.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert response.getheader("X-Content-Type-Options") == "nosniff"


def test_a_picture_is_answered(server):
    response, data = ask(server, "POST", "/detect", png())
    assert response.status == 200
    assert response.getheader("Content-Type") == "application/json"
    answer = json.loads(data)
    assert (answer["width"], answer["height"]) == (20, 10)
    assert answer["boxes"][0] == [0, 0, 10, 5]


def test_a_point_is_passed_on(server, answers):
    answers.asked.clear()
    assert ask(server, "POST", "/taps?x=3.5&y=4", png())[0].status == 200
    assert ask(server, "POST", "/taps?x=3.5&y=4&level=1&box=1,2,3,4", png())[0].status == 200
    assert answers.asked == [((3.5, 4.0), None, None), ((3.5, 4.0), 1, [1.0, 2.0, 3.0, 4.0])]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/detect", b"", 400, "the picture: the image file is empty"),
        ("/detect", b"hello", 400, "the picture: empty, or not an image of a known format"),
        ("/detect", png()[:45], 400, "the picture: the image is broken"),
        ("/detect", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "the picture: empty, or not an image"),
        ("/taps", png(), 400, "give x and y"),
        ("/taps?x=1&y=two", png(), 400, "give x and y"),
        ("/taps?x=1&y=2&box=1,2,3", png(), 400, "give x and y"),
        ("/taps?x=1&y=2&level=9", png(), 500, "ZeroDivisionError; the terminal of the server says more"),
        ("/elsewhere", png(), 404, "there is no such page"),
        ("/", png(), 404, "there is no such page"),
    ],
)
def test_bad_uploads_are_one_line(server, capsys, path, body, status, message):
    response, data = ask(server, "POST", path, body)
    assert response.status == status
    error = json.loads(data)["error"]
    assert error.startswith(message)
    assert "\n" not in error
    assert ("ZeroDivisionError" in capsys.readouterr().err) == (status == 500)


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fetc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "/page.html",
        "/%00",
        "/favicon.ico",
        "/?x",
    ],
)
def test_no_file_is_served_by_name(server, path):
    response, data = ask(server, "GET", path)
    assert response.status == 404
    assert json.loads(data) == {"error": "there is no such page"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "", "[::1]:{port}"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_host_is_refused(server, method, host):
    host = host.format(port=server.server_port)
    response, data = ask(
        server, method, "/" if method == "GET" else "/detect", png() if method == "POST" else None, Host=host
    )
    assert response.status == 403
    assert set(json.loads(data)) == {"error"}


def test_own_names_and_origins_are_answered_and_no_others(server):
    port = server.server_port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(server, "GET", "/", Host=host)[0].status == 200
        assert ask(server, "POST", "/detect", png(), Host=host, Origin=f"http://{host}")[0].status == 200
    for origin in ("http://evil.example", "null", "https://127.0.0.1", f"http://127.0.0.1:{port}.evil.example"):
        response, data = ask(server, "POST", "/detect", png(), Origin=origin)
        assert response.status == 403
        assert json.loads(data) == {"error": "this server answers its own page only"}


def test_it_listens_on_the_loopback_address_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_big_bodies_are_refused_and_the_server_goes_on(server):
    response, data = ask(server, "POST", "/detect", bytes(MAX_UPLOAD + 1))
    assert response.status == 413
    assert json.loads(data) == {"error": "the picture is larger than 20 MB"}
    response, _ = ask(server, "POST", "/detect", b"", Content_Length=str(10**15))  # refused before a byte of it comes
    assert response.status == 413
    for length in ("-1", "ten", "", "1e3", "²"):
        response, _ = ask(server, "POST", "/detect", b"", Content_Length=length)
        assert response.status == 411
    response, _ = ask(server, "POST", "/detect", Transfer_Encoding="chunked")
    assert response.status == 411
    assert ask(server, "POST", "/detect", png())[0].status == 200


def test_an_upload_that_ends_early_is_named(server):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        host = f"127.0.0.1:{server.server_port}"
        connection.sendall(f"POST /detect HTTP/1.0\r\nHost: {host}\r\nContent-Length: 50\r\n\r\nshort".encode())
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while part := connection.recv(4096):
            data += part
    assert b"400 Bad Request" in data
    assert data.endswith(b'{"error": "the upload ended after 5 of 50 bytes"}')


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(server, method):
    assert ask(server, method, "/")[0].status == 501


def test_requests_at_once_are_each_answered(server):
    together = threading.Barrier(8)

    def one(number):
        together.wait(20)
        response, data = ask(server, "POST", "/detect", png(20 + number, 10))
        return response.status, json.loads(data)["width"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [(200, 20 + number) for number in range(8)]


def test_a_slow_request_does_not_hold_up_others(server):
    with socket.create_connection(("127.0.0.1", server.server_port)) as silent:
        silent.sendall(b"POST /detect HTTP/1.0\r\n")
        assert ask(server, "POST", "/detect", png())[0].status == 200


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["demo", "--workdir", "w", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(demo._main)
    out = capsys.readouterr()
    return ended.value.code, out.out, out.err


def test_wrong_arguments_are_one_line(monkeypatch, capsys, server):
    monkeypatch.setattr(trained_model, "load_for_inference", lambda workdir, step, trust: None)
    monkeypatch.setattr("dyhead_jax.demo.answers.Answers", lambda loaded: FixedAnswers())
    code, out, err = run(monkeypatch, capsys, "--port", 70000)
    assert (code, out, err) == (2, "", "error: --port 70000: it must be from 0 to 65535\n")
    code, out, err = run(monkeypatch, capsys, "--port", server.server_port)
    assert (code, out) == (1, "")
    assert err == f"error: port {server.server_port} of 127.0.0.1: Address already in use; choose another by --port\n"


def test_the_command_says_where_and_ends_by_ctrl_c(monkeypatch, capsys):
    monkeypatch.setattr(trained_model, "load_for_inference", lambda workdir, step, trust: None)
    monkeypatch.setattr("dyhead_jax.demo.answers.Answers", lambda loaded: FixedAnswers())

    def interrupted(server):
        assert ("127.0.0.1", server.server_port) == server.server_address
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    code, out, err = run(monkeypatch, capsys, "--port", 0)
    assert (code, err) == (130, "error: interrupted\n")
    assert out.startswith("open http://127.0.0.1:")


def test_a_workdir_that_is_absent_is_one_line(monkeypatch, capsys, tmp_path):
    code, out, err = run(monkeypatch, capsys, "--workdir", tmp_path / "absent")
    assert (code, out) == (1, "")
    assert err == f"error: {tmp_path / 'absent'}: no such folder\n"
