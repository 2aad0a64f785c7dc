"""The error pages: what went wrong, and where to go from there."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from profiles.pages import browse

PAGES = 'href="/profiles/"'


def shown(response, status):
    assert response.status_code == status
    assert response["Content-Type"].startswith("text/html")
    return response.content.decode()


def test_an_unknown_page_leads_to_the_profiles():
    content = shown(Client().get("/profiles/nothing"), 404)
    assert "There is no page at this address." in content
    assert PAGES in content


def test_a_foreign_host_is_a_bad_request():
    response = Client().get("/profiles/", headers={"host": "evil.example"})
    assert "Bad request" in shown(response, 400)


def test_other_machines_learn_why_they_are_refused():
    content = shown(Client().get("/profiles/", REMOTE_ADDR="10.0.0.5"), 403)
    assert "DJANGO_OPEN_PEERS" in content


def test_a_person_without_the_permission_learns_of_it_and_can_log_out(db, settings):
    settings.DEVELOPMENT = False
    client = Client()
    client.force_login(User.objects.create_user("ada", is_staff=True))
    content = shown(client.get("/profiles/"), 403)
    assert "You may not view patient profiles." in content
    assert "<strong>ada</strong>" in content
    assert 'action="/admin/logout/"' in content


def test_an_error_of_ours_shows_nothing_of_it(monkeypatch):
    def fail(request):
        raise RuntimeError("secret")

    monkeypatch.setattr(browse.Query, "of", fail)
    client = Client(raise_request_exception=False)
    content = shown(client.get("/profiles/"), 500)
    assert "The error was logged." in content
    assert "secret" not in content


@pytest.mark.usefixtures("db")
def test_the_log_in_page_has_the_name_of_the_site():
    content = shown(Client().get("/admin/login/"), 200)
    assert "Log in | Patient Profile" in content
    assert "Django" not in content
