import pytest

from harness import MODEL, WYVERN, Service


def pytest_sessionstart(session):
    if not WYVERN.exists():
        raise pytest.UsageError(f"no {WYVERN}: run make first")


@pytest.fixture
def start(tmp_path):
    """start(**options): a service for this test; every one is stopped cleanly at its end, which
    is part of the test: exit status 0, no process left."""
    services = []

    def launch(wait=True, **options):
        folder = tmp_path / f"service{len(services)}"
        folder.mkdir()
        service = Service(folder, **options)
        services.append(service)
        return service.wait_ready() if wait else service

    try:
        yield launch
        for service in services:
            if service.process.poll() is None:
                assert service.stop() == 0, service.logs()
    finally:
        for service in services:
            service.kill()


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """One service with the fake engine for the tests of a module that leave it as it was."""
    with Service(tmp_path_factory.mktemp("fake"), nodes=1, workers=2, slots=4) as service:
        yield service


@pytest.fixture(scope="session")
def model():
    assert MODEL.exists(), "no default model: run scripts/deps.sh model"
    return MODEL


@pytest.fixture(scope="module")
def real(tmp_path_factory, model):
    """One service with the real model."""
    with Service(tmp_path_factory.mktemp("real"), model=model, workers=1, slots=4) as service:
        yield service
