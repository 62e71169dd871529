"""The settings of the services, each an environment variable ``MLAAS4HEP_<SETTING>``.

A class is a section of docs/reference/settings.md, which is written from it: the class's docstring
is the heading, a field's description the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlaas4hep import __version__
from mlaas4hep.core.hosts import DataHosts, HostError
from mlaas4hep.core.origins import Cache, Door, doors_of, origins_of
from mlaas4hep.core.units import GiB, MiB

Image = Annotated[str, StringConstraints(min_length=1)]


_ORIGIN = r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?"
_PATH = r"/([A-Za-z0-9_.+=@~-]+/)*"


class JobEnvironment(BaseModel):
    """Where trainings run that ask for it: an image, and how many GPUs such a training gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Image
    gpus: Annotated[int, Field(ge=0)] = 0


EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Section(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="MLAAS4HEP_", extra="ignore", frozen=True)


class StoreSettings(_Section):
    """The store and the database."""

    store: Path = Field(
        Path.home() / ".local/share/mlaas4hep",
        description="Folder of uploads, jobs and models; all three services share it.",
    )
    database: str = Field(
        "",
        description="SQLite URL of jobs and folders, sqlite:////PATH; empty: in the store.",
    )
    min_free_bytes: int = Field(
        GiB, description="Free space in the store below which the server is not ready."
    )
    max_bundle_bytes: int = Field(4 * GiB, description="Maximum size of an unpacked bundle.")

    @cached_property
    def uploads(self) -> Path:
        """Folders of users: ROOT files and the files that describe a training."""
        return self.store / "uploads"

    @cached_property
    def jobs(self) -> Path:
        """One folder per job: its log, progress, result and bundle."""
        return self.store / "jobs"

    @cached_property
    def models(self) -> Path:
        """The model repository: what TFaaS serves."""
        return self.store / "models"

    @cached_property
    def database_url(self) -> str:
        """The database URL with its default filled in."""
        return self.database or f"sqlite:///{self.store / 'mlaas4hep.sqlite'}"


class AddressSettings(_Section):
    """Addresses and logs."""

    host: str = Field("127.0.0.1", description="Address that the server and TFaaS listen on.")
    server_port: int = Field(
        8080, ge=0, le=65535, description="Port of the server; 0 takes a free one."
    )
    tfaas_port: int = Field(8083, ge=0, le=65535, description="Port of TFaaS; 0 takes a free one.")
    tfaas_url: str = Field(
        "http://127.0.0.1:8083", description="Where users reach TFaaS; shown on the server's page."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")


class SignInSettings(_Section):
    """Sign-in."""

    issuer: str = Field(
        "",
        description="OpenID Connect issuer whose tokens are accepted, as its discovery document "
        "names it; empty means no sign-in, on loopback only.",
    )
    audience: str = Field(
        "",
        description="A token must be for one of these (comma list), or name no audience and belong "
        "to a client among them; empty accepts tokens for any service.",
    )
    groups_claim: str = Field(
        "groups,wlcg.groups,entitlements,eduperson_entitlement",
        description="Claims that hold a user's groups (comma list), also as a path to a nested one:"
        " `realm_access.roles`. If the token has none of them, the issuer's userinfo is read.",
    )
    allowed_groups: str = Field(
        "",
        description="Groups that may use the service (comma list; a leading slash is ignored); `*` "
        "allows every user of the issuer; `client:ID` and `user:SUB` allow one robot or "
        "user. Required with an issuer.",
    )
    public_url: str = Field(
        "",
        description="Where browsers reach the server, https://HOST; requests of a browser's "
        "session must come from there.",
    )
    unsafe_no_sign_in: bool = Field(
        False,
        description="Listen on any address without sign-in: only where the address can be reached "
        "through a published loopback port alone.",
    )


class UploadSettings(StoreSettings):
    """Uploads."""

    max_upload_bytes: int = Field(20 * GiB, description="Maximum size of an uploaded archive.")
    max_folder_bytes: int = Field(100 * GiB, description="Maximum size of an unpacked folder.")
    max_folder_files: int = Field(100_000, description="Maximum files in an unpacked folder.")
    max_user_folders_bytes: int = Field(
        0, ge=0, description="Maximum size of all folders of one user; 0: unlimited."
    )


def _check_paths(paths: dict[str, list[str]]) -> dict[str, list[str]]:
    for path in (path for each in paths.values() for path in each):
        if not re.fullmatch(_PATH, path) or {".", ".."} & set(path.split("/")):
            why = f"{path!r} is no folder of grid data: write it as /store/mc/, with both slashes"
            raise PydanticCustomError("paths", "{why}", {"why": why})
    return paths


class OriginSettings(_Section):
    """Grid data: files of root://, which trainings in containers read through a cache."""

    xrootd_origins: str = Field(
        "",
        pattern=rf"^({_ORIGIN}( *, *{_ORIGIN})*)?$",
        description="Servers and redirectors of root:// that are read through the cache (comma"
        " list): `HOST`, or `HOST:PORT` where the port is not 1094. Files of `/store/...` without"
        " a host are the first one's.",
    )
    data_paths: Annotated[dict[str, list[str]], AfterValidator(_check_paths)] = Field(
        {},
        description="Folders of grid data that a group's trainings may read, as a JSON object such"
        ' as {"cms": ["/store/mc/"], "*": ["/store/open/"]}: each with a slash at the end; `*` is'
        " everybody. Empty: all that the cache's credential reads. The cache runs a server for"
        " each origin and folder.",
    )

    @property
    def doors(self) -> tuple[Door, ...]:
        """The cache's doors, one for each origin and folder that groups tell apart."""
        folders = [path for each in self.data_paths.values() for path in each]
        return tuple(doors_of(origins_of(self.xrootd_origins), folders))

    def paths_of(self, groups: Iterable[str]) -> tuple[str, ...] | None:
        """Folders of grid data that a training of these groups may read; None: all."""
        if not self.data_paths:
            return None
        return tuple(
            sorted({p for group in {*groups, "*"} for p in self.data_paths.get(group, ())})
        )


class JobSettings(OriginSettings, StoreSettings):
    """Trainings."""

    executor: Literal["process", "container"] = Field(
        "process",
        description="How trainings run: process (for a physicist's own computer: a training can do"
        " whatever the runner can) or container (each in its own container, with its own folder"
        " only).",
    )
    engine: str = Field(
        "unix:///var/run/docker.sock", description="Address of the container engine."
    )
    environments: dict[EnvironmentName, Image | JobEnvironment] = Field(
        {"default": f"mlaas4hep/job:{__version__}"},
        min_length=1,
        description="Images that trainings may ask for by name, as a JSON object; the first is the"
        ' default. One with GPUs is {"image": "...", "gpus": 1}. For executor container.',
    )
    job_network: str = Field(
        "none",
        description="Container network of trainings, for remote data; none disables networking.",
    )
    job_offline: bool = Field(
        False,
        description="Deny trainings all sockets except Unix ones: they read local files only."
        " Always on for containers whose network is none.",
    )
    data_proxy: str = Field(
        "",
        description="Folder of the data proxy, by which trainings in containers whose network is"
        " none read remote files; empty: they can't.",
    )
    xrootd_cache: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9.-]*:[0-9]{1,5})?$",
        description="`HOST:PORT` at which the data proxy finds the cache of grid data, by which"
        " trainings in containers read root:// files; empty: they can't.",
    )
    xrootd_cache_status_port: int = Field(
        8085, description="Port at which that cache tells whether a file was replaced."
    )
    max_jobs: int = Field(1, description="Maximum trainings that run at once; the others wait.")
    max_jobs_per_user: int = Field(
        0, ge=0, description="Maximum trainings of one user that run at once; 0: unlimited."
    )
    max_queued_jobs: int = Field(1000, description="Maximum trainings that wait in line.")
    max_queued_jobs_per_user: int = Field(
        0, ge=0, description="Maximum trainings of one user that wait in line; 0: unlimited."
    )
    max_job_cpus: float = Field(64, description="Maximum cores of one training.")
    max_job_memory_bytes: int = Field(64 * GiB, description="Maximum memory of one training.")
    max_job_seconds: int = Field(7 * 86400, description="Maximum wall time of one training.")
    max_job_pids: int = Field(
        4096, ge=16, description="Maximum processes and threads of one training in a container."
    )
    max_job_disk_bytes: int = Field(
        20 * GiB,
        ge=MiB,
        description="Maximum that one training writes: its log, its bundle, its other files.",
    )
    keep_days: int = Field(
        0,
        ge=0,
        description="Days after which the files of ended trainings and unused folders are deleted;"
        " 0 keeps them for ever. Models stay.",
    )

    @property
    def cache(self) -> Cache | None:
        """The cache of grid data that trainings read through, if there is one."""
        if not self.xrootd_cache or not self.doors:
            return None
        return Cache(self.xrootd_cache.lower(), self.xrootd_cache_status_port, self.doors)

    @cached_property
    def job_environments(self) -> dict[str, JobEnvironment]:
        """What a training may run in, by name; the first is the default."""
        if self.executor == "process":
            return {"default": JobEnvironment(image="this machine")}
        return {
            name: JobEnvironment(image=value) if isinstance(value, str) else value
            for name, value in self.environments.items()
        }


def _check_hosts(text: str) -> str:
    try:
        DataHosts(text)
    except HostError as error:
        raise PydanticCustomError("hosts", "{why}", {"why": str(error)}) from None
    return text


class DataProxySettings(_Section):
    """Remote data (`mlaas4hep data-proxy`)."""

    data_hosts: Annotated[str, AfterValidator(_check_hosts)] = Field(
        "",
        description="Hosts that trainings may read from by http(s) and s3 (comma list): `HOST`"
        " (ports 80 and 443), `HOST:PORT`, `*.DOMAIN` for all names below it; addresses and"
        " networks, such as `10.1.0.0/16`, where a host's address is not public.",
    )
    own_addresses: str = Field(
        "",
        description="Names and addresses of this machine (comma list), which trainings reach only"
        " where `data_hosts` lists the address itself.",
    )


_VOMSES = re.compile(r'(?:"[^"]+"[ \t]+){4}"[^"]+"(?:[ \t]+"[0-9.]+")?')


def _check_vomses(text: str) -> str:
    """Each server on a line of its own."""
    if left := _VOMSES.sub("", text).strip("\r\n\t ;,"):
        raise PydanticCustomError("vomses", "{left} is no line of a vomses file", {"left": left})
    return "\n".join(_VOMSES.findall(text))


class GridSettings(_Section):
    """Data of the grid (`mlaas4hep x509-renewer`)."""

    grid_status_port: int = Field(
        8085, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0: a free one."
    )
    x509_folder: Path = Field(
        Path.home() / ".local/share/mlaas4hep/x509",
        description="Folder of the renewer: the certificate in `private`; in `shared`, for whoever"
        " reads data, `proxy.pem`, `token` and the folder `certificates` of CAs and CRLs.",
    )
    ca_folder: str = Field(
        "",
        description="Folder of the CAs that are trusted, HASH.0; empty:"
        " `/cvmfs/grid.cern.ch/etc/grid-security/certificates` if there is one, else"
        " `/etc/grid-security/certificates`.",
    )
    fetch_crl_hours: float = Field(
        6,
        ge=0,
        description="Hours after which revocation lists (CRLs) are fetched again; 0: who keeps"
        " `ca_folder` does it. Never for a folder below `/cvmfs`, which has them.",
    )
    voms: str = Field(
        "",
        pattern=r"^([\w.-]+(:/[\w./=-]+)?)?$",
        description="VO whose attributes the proxy gets, `VO` or `VO:/VO/GROUP/Role=ROLE`; empty:"
        " a proxy without.",
    )
    vomses: Annotated[str, AfterValidator(_check_vomses)] = Field(
        "",
        description='VOMS servers, as in the lines of a vomses file, `"ALIAS" "HOST" "PORT" "DN"'
        ' "VO"`, or with `;` between them; empty: the files in `vomses` beside `ca_folder`.',
    )
    voms_lsc: dict[str, list[str]] = Field(
        {},
        description="Who signs the VO's attributes, as a JSON object: for each host the DN of its"
        " certificate, and that of its CA; empty: the folder `vomsdir` beside `ca_folder`.",
    )
    proxy_hours: int = Field(
        12, ge=1, le=168, description="Life of a proxy; it is renewed when half of it is over."
    )
    grid_token_issuer: str = Field(
        "",
        description="OpenID Connect issuer of a bearer token to read data with, got by client"
        " credentials; empty: no token.",
    )
    grid_token_client: str = Field("", description="Client ID at that issuer.")
    grid_token_secret: Path | None = Field(None, description="File with the client's secret.")
    grid_token_scope: str = Field("storage.read:/", description="Scopes of the token.")
    grid_token_audience: str = Field("", description="Audience of the token, if one is asked for.")


class CacheSettings(OriginSettings):
    """The cache of grid data (`mlaas4hep xrootd-cache`)."""

    xrootd_paths: str = Field(
        "/store/",
        pattern=rf"^{_PATH}( *, *{_PATH})*$",
        description="Folders of the origins that may be read (comma list), each with a slash at"
        " the end; those of `data_paths` lie below them.",
    )
    xrootd_cache_folder: Path = Field(
        Path.home() / ".local/share/mlaas4hep/xrootd-cache",
        description="Folder of the cache, which belongs to it alone.",
    )
    xrootd_cache_bytes: int = Field(
        20 * GiB, ge=GiB, description="Space for cached files; each door has an equal part."
    )
    xrootd_cache_port: int = Field(
        1094, ge=1024, le=65000, description="Port of the first door; the next ones follow."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of ``xrootd_paths``."""
        return tuple(each.strip() for each in self.xrootd_paths.split(","))


class ServingSettings(_Section):
    """Predictions."""

    max_request_bytes: int = Field(
        4 * MiB,
        description="Maximum body of a prediction request: others wait while it is parsed, and six "
        "of them, parsed, must fit into memory.",
    )
    max_batch_rows: int = Field(128, description="Maximum single-row requests in one batch.")
    max_waiting_requests: int = Field(
        4096, description="Maximum prediction requests that wait for one model; more get 503."
    )
    max_loaded_models: int = Field(
        100, description="Maximum models in memory; the least recently used makes room."
    )
    max_loaded_bytes: int = Field(
        512 * MiB,
        description="Maximum memory of all models in the service, about: graphs and columns.",
    )
    model_workers: int = Field(
        2, ge=1, description="Processes that models share; a slow model gets one of its own."
    )
    max_model_seconds: float = Field(
        10, gt=0, description="Maximum time of a model for one batch; then its process is killed."
    )
    max_load_seconds: float = Field(
        30, gt=0, description="Maximum time to load a model; then it is refused."
    )
    max_model_memory_bytes: int = Field(
        GiB, ge=256 * MiB, description="Maximum memory of a process that runs models."
    )


class Settings(
    ServingSettings,
    CacheSettings,
    GridSettings,
    DataProxySettings,
    JobSettings,
    OriginSettings,
    UploadSettings,
    SignInSettings,
    AddressSettings,
    StoreSettings,
):
    """All of them, for server, runner and TFaaS; a part asks for the section that it needs."""
