"""A folder on its way to a hub that speaks the real endpoints."""

import pytest
from impasto.errors import SettingsError
from impasto.publishing import hub_upload
from impasto.publishing.hub_upload import PublishError, check_allowed, check_repository, upload
from impasto.setup.serving import free_port

from . import writable_hub

TOKEN = "hf_" + "a" * 34


@pytest.fixture
def hub(monkeypatch):
    with writable_hub.reached(TOKEN, monkeypatch) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "README.md").write_text("# monet\n")
    (tmp_path / "monet.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "images" / "01.jpg").write_bytes(b"picture")
    return tmp_path


def test_all_files_lie_in_a_new_private_repository_and_nothing_is_sent_twice(hub, folder):
    sent = upload(folder, "me/monet")
    found = hub.repositories["model", "me/monet"]
    assert found.private and found.commits[-1] == sent.commit and sent.address == f"{hub.endpoint}/me/monet"
    here = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert {path: content for path, content in found.files.items() if path != ".gitattributes"} == here
    again = upload(folder, "me/monet")
    assert again.sent == () and len(hub.put) == 2 and len(found.commits) == 2


def test_an_upload_that_broke_off_goes_on_where_it_was(hub, folder):
    hub.faults.extend(["", "drop"])
    with pytest.raises(PublishError, match="Queue again"):
        upload(folder, "me/monet")
    assert len(hub.put) == 1 and len(hub.repositories["model", "me/monet"].commits) == 1
    upload(folder, "me/monet")
    assert len(hub.put) == len(set(hub.put)) == 2
    assert "monet.safetensors" in hub.repositories["model", "me/monet"].files


def test_what_lies_there_is_written_over_only_where_that_is_said(hub, folder):
    upload(folder, "me/monet")
    (folder / "README.md").write_text("# monet, again\n")
    with pytest.raises(SettingsError, match=r"holds other files of these names: README\.md\. Set replace"):
        upload(folder, "me/monet")
    assert hub.repositories["model", "me/monet"].files["README.md"] == b"# monet\n"
    assert upload(folder, "me/monet", replace=True).sent == ("README.md",)
    assert hub.repositories["model", "me/monet"].files["README.md"] == b"# monet, again\n"


def test_what_is_to_be_private_is_not_sent_to_a_public_repository(hub, folder):
    hub.repositories["model", "me/monet"] = writable_hub.Repository(private=False)
    with pytest.raises(SettingsError, match="me/monet is public, and private is on"):
        upload(folder, "me/monet")
    assert not hub.put and not hub.repositories["model", "me/monet"].files
    assert "monet.safetensors" in upload(folder, "me/monet", private=False).sent


def test_only_the_files_that_are_named_are_sent(hub, folder):
    sent = upload(folder, "me/monet", files=("README.md", "images/01.jpg"))
    assert sent.sent == ("README.md", "images/01.jpg")
    assert "monet.safetensors" not in hub.repositories["model", "me/monet"].files


def test_what_somebody_else_wrote_meanwhile_is_not_written_over(hub, folder):
    upload(folder, "me/monet")
    (folder / "more.txt").write_text("more")
    hub.written_meanwhile = True
    with pytest.raises(PublishError, match="Somebody wrote into it meanwhile"):
        upload(folder, "me/monet")
    assert "more.txt" not in hub.repositories["model", "me/monet"].files


@pytest.mark.parametrize(
    ("token", "repository", "said"), [("hf_wrong", "me/monet", "valid"), (TOKEN, "forbidden/x", "write there")]
)
def test_a_refusal_says_what_to_do_and_holds_no_token(hub, folder, monkeypatch, token, repository, said):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=said) as refused:
        upload(folder, repository)
    assert token not in str(refused.value) and not hub.put


def test_a_hub_that_cannot_be_reached_is_told_in_words(hub, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PublishError, match="me/monet: the Hub could not be reached"):
        upload(folder, "me/monet")


def test_cancel_between_two_files_ends_the_upload_and_the_rest_is_sent_later(hub, folder):
    class Cancelled(Exception):
        pass

    def cancelled_at_the_second_picture(done, total, text):
        if len(hub.put) == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        upload(folder, "me/monet", progress=cancelled_at_the_second_picture)
    assert len(hub.put) == 1 and len(hub.repositories["model", "me/monet"].commits) == 1
    upload(folder, "me/monet")
    assert len(hub.put) == len(set(hub.put)) == 2


def test_nothing_is_sent_offline_or_without_a_token(hub, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE"):
        upload(folder, "me/monet")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(SettingsError, match="no token"):
        upload(folder, "me/monet")
    assert not hub.repositories


@pytest.mark.parametrize(
    "name", ["monet", "me/../you", "https://huggingface.co/me/x", "me/x/y", "me/x y", "/x", "me/x.git", ""]
)
def test_only_an_owner_and_a_name_are_a_repository(name):
    with pytest.raises(SettingsError, match="Give the owner and a name"):
        check_repository(name)


def test_only_owners_that_the_server_s_owner_named_are_published_as(tmp_path):
    with pytest.raises(SettingsError, match=r"may not publish as 'me'.*publish\.toml"):
        check_allowed("me/monet", tmp_path)
    (tmp_path / hub_upload.PERMISSION).write_text('namespaces = ["Me"]\n')
    check_allowed("me/monet", tmp_path)
    with pytest.raises(SettingsError, match="may not publish as 'you'"):
        check_allowed("you/monet", tmp_path)
    (tmp_path / hub_upload.PERMISSION).write_text("namespaces = 3\n")
    with pytest.raises(SettingsError, match="list of names"):
        check_allowed("me/monet", tmp_path)
