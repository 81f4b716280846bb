# One image for every process of the stack; docker-compose.yml says which one a container runs.
FROM python:3.11-slim-bookworm AS build
# The CPU build of torch by default; for a GPU image say --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/lepton
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY lepton lepton
COPY leptonai leptonai
COPY servicekit servicekit
COPY services services
RUN /opt/lepton/bin/pip install --extra-index-url "$TORCH_INDEX" --constraint constraints.txt '.[platform,postgres]'

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home lepton
COPY --from=build /opt/lepton /opt/lepton
ENV PATH=/opt/lepton/bin:$PATH PYTHONUNBUFFERED=1
USER lepton
WORKDIR /home/lepton
CMD ["python", "-m", "services.data"]
