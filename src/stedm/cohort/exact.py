"""A client of EXACT, the annotation server (Marzahl et al. 2021, doi 10.1038/s41598-021-83827-4), as far as needed.

Addresses and forms are those of its OpenAPI file and of recorded answers. Pages hold at most 50 entries, deleted
annotations are returned unless asked not to, and an unknown image set is an empty list.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from stedm.cohort.web import Web, is_loopback
from stedm.config import Section
from stedm.errors import UserError
from stedm.provenance import write_text

log = logging.getLogger("stedm")

PAGE = 50
USER, PASSWORD = "EXACT_USER", "EXACT_PASSWORD"


class ExactOptions(Section):
    """Where annotations lie on an EXACT server, and which of them count."""

    server: str = ""
    """Address of the server, for `stedm fetch`, such as https://exact.example.org."""
    image_sets: tuple[str, ...] = ()
    """Names of the image sets."""
    product: str | None = None
    """Name of the product (a group of annotation types) whose annotations count; by default all."""
    regions: tuple[str, ...] = ()
    """Annotation types, of any product, that bound what was annotated: outside of them labels are unknown."""
    users: tuple[int, ...] = ()
    """Ids of the users whose annotations count; by default all."""


class Exact:
    """One EXACT server.

    Parameters
    ----------
    server
        Its address.
    web
        Asks it, with credentials.
    """

    def __init__(self, server: str, web: Web) -> None:
        self._server, self._web = server.rstrip("/"), web

    @classmethod
    def open(cls, server: str) -> Exact:
        """Reach a server with the credentials of the environment, EXACT_USER and EXACT_PASSWORD.

        Raises
        ------
        UserError
            If one is not set, or the address would send them unencrypted.
        """
        if urlsplit(server).scheme != "https" and not is_loopback(server):
            raise UserError(f"{server or 'server'}: no https address; a password must not travel unencrypted.")
        for name in (USER, PASSWORD):
            if not os.environ.get(name):
                raise UserError(f"{name}: not set; export {USER} and {PASSWORD} of your account on {server}.")
        return cls(server, Web((os.environ[USER], os.environ[PASSWORD])))

    def _all(self, path: str, **params: Any) -> list[dict[str, Any]]:
        url, found = f"{self._server}/api/v1/{path}/", []
        asked = {"limit": PAGE, **params}
        while True:
            page = self._web.json(url, **asked)
            try:
                found += page["results"]
                following, count = page["next"], page["count"]
            except (TypeError, KeyError):
                raise UserError(f"{url}: answered no page of results; is this an EXACT server?") from None
            if not following:
                break
            # Behind a proxy `next` names another host; credentials go to the one that was configured.
            step = dict(parse_qsl(urlsplit(following).query))
            if not page["results"] or step == asked:
                raise UserError(f"{url}: its pages do not end; ask who runs the server.")
            asked = step
        if len(found) != count:
            raise UserError(
                f"{url}: gave {len(found)} of {count} entries; someone changed them meanwhile, so run again."
            )
        return found

    def images(self, image_set: str) -> list[dict[str, Any]]:
        """Return the images of an image set.

        Raises
        ------
        UserError
            If there is no such image set, or the server fails.
        """
        return [
            image for one in self._image_sets(image_set) for image in self._all("images/images", image_set=one["id"])
        ]

    def _image_sets(self, name: str) -> list[dict[str, Any]]:
        found = self._all("images/image_sets", name=name)
        if not found:
            raise UserError(
                f"{self._server}: has no image set {name!r} that you may see; correct its name or ask for access."
            )
        return found

    def annotation_types(self, image_set: str) -> list[dict[str, Any]]:
        """Return the annotation types of an image set, each with its product's name as ``product_name``."""
        products: dict[int, str] = {}
        for one in self._image_sets(image_set):
            products |= {p["id"]: p["name"] for p in self._all("administration/products", imagesets=one["id"])}
        return [
            {**kind, "product_name": name}
            for product, name in products.items()
            for kind in self._all("annotations/annotation_types", product=product)
        ]

    def annotations(self, image: int, user: int | None = None) -> list[dict[str, Any]]:
        """Return the annotations of an image that were not deleted, of one user or all."""
        who = {} if user is None else {"user": user}
        return self._all("annotations/annotations", image=image, deleted="False", **who)

    def download(self, image: int, path: Path) -> None:
        """Download a slide as it was uploaded or converted by the server; see :meth:`Web.download`."""
        self._web.download(f"{self._server}/images/api/image/download/{image}/", path, original_image="False")


def export(client: Exact, options: ExactOptions, folder: Path) -> int:
    """Bring image sets into a folder: ``slides/<name>`` and ``annotations/<name without suffix>.json``.

    Slides that are there are not downloaded again; annotations are always fetched anew.

    Parameters
    ----------
    client
        The server.
    options
        What to fetch.
    folder
        Where to.

    Returns
    -------
    int
        Number of slides.

    Raises
    ------
    UserError
        If an image set is unknown, a name is unsafe or stands twice, or the server fails.
    """
    stems: dict[str, str] = {}
    for image_set in options.image_sets:
        types = client.annotation_types(image_set)
        for image in client.images(image_set):
            name, stem = image["name"], PurePath(image["name"]).stem
            if name != PurePath(name).name or name.startswith("."):
                raise UserError(f"{image_set}: the image {name!r} has no safe file name; rename it on the server.")
            if stem in stems:
                raise UserError(
                    f"{image_set}: {name!r} and {stems[stem]!r} have the same name; rename one on the server."
                )
            stems[stem] = name
            slide = folder / "slides" / name
            if not slide.exists():
                client.download(image["id"], slide)
            drawn = [entry for user in options.users or [None] for entry in client.annotations(image["id"], user)]
            content = {"image": image, "annotation_types": types, "annotations": drawn}
            write_text(folder / "annotations" / f"{stem}.json", json.dumps(content, indent=1) + "\n")
            log.info("%s: %d annotations", name, len(drawn))
    return len(stems)
