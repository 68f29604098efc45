"""Downloads from bad networks and archives from bad people, with real servers on loopback."""

import datetime
import hashlib
import io
import tarfile

import pytest
from servers import send, send_file, serve

from stedm.cohort.archives import members
from stedm.cohort.web import Web
from stedm.errors import UserError

DATA = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(100_000))
MD5 = hashlib.md5(DATA).hexdigest()


class Flaky:
    """A server whose answers to one request after the other are given; the last one goes on for ever."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, handler, path, query):
        self.asked.append(handler.headers.get("Range"))
        self.answers[min(len(self.asked), len(self.answers)) - 1](handler)


def whole(**how):
    return lambda handler: send_file(handler, DATA, **how)


def status(number, body=b"oops"):
    return lambda handler: send(handler, number, body)


def fetch(address, path, **how):
    Web(pause=0).download(f"{address}/slide.svs", path, **how)


def test_half_a_body_is_gone_on_from(tmp_path):
    server = Flaky(whole(cut=1_000_000), whole(cut=500_000), whole())
    with serve(server) as address:
        fetch(address, tmp_path / "slide.svs", md5=MD5)
    assert (tmp_path / "slide.svs").read_bytes() == DATA
    first, second, third = server.asked
    assert first is None
    begins = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in (second, third)]
    assert 0 < begins[0] <= 1_000_000 and begins[0] < begins[1] <= 1_500_000
    assert [path.name for path in tmp_path.iterdir()] == ["slide.svs"]


def test_a_body_of_unstated_length_is_compared_with_the_size_that_is_known(tmp_path):
    def unstated(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DATA[:1000])
        handler.close_connection = True

    with serve(Flaky(unstated, whole())) as address:
        fetch(address, tmp_path / "slide.svs", size=len(DATA))
    assert (tmp_path / "slide.svs").read_bytes() == DATA


def test_what_came_before_a_failure_is_kept_for_the_next_run(tmp_path):
    words = r"slide\.svs: failed 5 times \(the server answered 500\)"
    with serve(Flaky(whole(cut=2_000_000), status(500))) as address, pytest.raises(UserError, match=words):
        fetch(address, tmp_path / "slide.svs")
    assert not (tmp_path / "slide.svs").exists()
    assert 0 < (tmp_path / "slide.svs.part").stat().st_size <= 2_000_000
    server = Flaky(whole())
    with serve(server) as address:
        fetch(address, tmp_path / "slide.svs")
    assert server.asked[0] is not None and (tmp_path / "slide.svs").read_bytes() == DATA


def test_a_server_without_ranges_and_one_with_a_newer_version_start_anew(tmp_path):
    (tmp_path / "a.part").write_bytes(DATA[:1000])
    with serve(Flaky(whole(ranges=False))) as address:
        fetch(address, tmp_path / "a")
    (tmp_path / "b.part").write_bytes(b"x" * 1000)
    (tmp_path / "b.etag.part").write_text("an older version")
    with serve(Flaky(whole(etag="2"))) as address:
        fetch(address, tmp_path / "b")
    (tmp_path / "c.part").write_bytes(DATA + b"too much")
    with serve(Flaky(whole())) as address:
        fetch(address, tmp_path / "c")
    assert all((tmp_path / name).read_bytes() == DATA for name in "abc")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"md5": "0" * 32}, f"its MD5 is {MD5}, not 0000"),
        ({"size": 7}, "the server has 3200000 bytes of it, 7 were expected"),
    ],
)
def test_another_file_than_expected_is_refused(tmp_path, how, words):
    with serve(Flaky(whole())) as address, pytest.raises(UserError, match=words):
        fetch(address, tmp_path / "slide.svs", **how)
    assert not (tmp_path / "slide.svs").exists()


def test_a_server_that_recovers_is_asked_again():
    server = Flaky(status(503), status(500), lambda handler: send(handler, 200, {"a": 1}))
    with serve(server) as address:
        assert Web(pause=0).json(address) == {"a": 1}
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(403, {"detail": "You do not have permission."}), r"refused \(403: You do not have permission\)"),
        (status(401), r"refused \(401: Unauthorized\)"),
        (status(404, {"detail": "No Annotation matches."}), r"answered 404 \(No Annotation matches\)"),
        (status(200, b"<html>log in</html>"), "answered no JSON"),
        (lambda handler: send(handler, 200, {"a": "b" * 1000}, cut=20), "failed 5 times"),
    ],
)
def test_refusals_and_nonsense_are_one_sentence(answer, words):
    with serve(Flaky(answer)) as address, pytest.raises(UserError, match=words) as error:
        Web(pause=0).json(address)
    assert "\n" not in str(error.value) and address in str(error.value)


def test_nobody_at_the_address_is_one_sentence():
    with serve(Flaky(whole())) as address:
        pass
    with pytest.raises(UserError, match="failed 5 times"):
        Web(pause=0).json(address)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine that no authority signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    import ipaddress

    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, plain) + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate, tmp_path, monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    server = Flaky(whole())
    with serve(server, certificate) as address:
        with pytest.raises(UserError, match="certificate cannot be verified") as error:
            fetch(address, tmp_path / "slide.svs")
        assert "REQUESTS_CA_BUNDLE" in str(error.value) and not server.asked
        assert list(tmp_path.iterdir()) == []
        # The remedy that the sentence names.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        fetch(address, tmp_path / "slide.svs", md5=MD5)


# Archives


def archive(path, *entries, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content, kind, target in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def plain(name, content=b"x"):
    return (name, content, tarfile.REGTYPE, "")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_files_of_an_archive_come_in_its_order(tmp_path, mode):
    folder = ("jpg", b"", tarfile.DIRTYPE, "")
    inner = ("jpg/link", b"", tarfile.SYMTYPE, "../jpg/b")
    path = archive(tmp_path / "a.tgz", folder, plain("./jpg/b", b"1"), plain("jpg/a", b"2"), inner, mode=mode)
    assert [(str(name), content) for name, content in members(path)] == [("jpg/b", b"1"), ("jpg/a", b"2")]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (plain("../evil"), r"member '\.\./evil' would be written outside"),
        (plain("a/../../evil"), "outside of its folder"),
        (plain("/etc/passwd"), "outside of its folder"),
        (("a", b"", tarfile.SYMTYPE, "/etc/passwd"), "is a link to '/etc/passwd'"),
        (("d/a", b"", tarfile.SYMTYPE, "../../x"), "is a link to"),
        (("d/a", b"", tarfile.LNKTYPE, "../x"), "is a link to"),
        (("a", b"", tarfile.FIFOTYPE, ""), "neither file nor folder"),
    ],
)
def test_archives_that_reach_outside_are_refused(tmp_path, entry, words):
    path = archive(tmp_path / "a.tar", plain("good"), entry)
    with pytest.raises(UserError, match=words) as error:
        list(members(path))
    assert str(path) in str(error.value)


def test_archives_cut_short_and_missing_are_named(tmp_path):
    path = archive(tmp_path / "a.tgz", plain("a", DATA), mode="w:gz")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"a\.tgz: no whole tar archive"):
        list(members(path))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="no whole tar archive"):
        list(members(path))
    with pytest.raises(UserError, match="No such file"):
        list(members(tmp_path / "none.tar"))
