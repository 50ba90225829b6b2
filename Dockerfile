# hpo with all that it needs, for a GPU or a CPU: docker build --tag hpo .
# What is in it, and how much that is: docs/containers.md
ARG PYTHON_IMAGE=python:3.13-slim
# Not empty: with what recipes with `compile = true` need, triton and a C++ compiler, 1.3 GB.
ARG COMPILE=""

# What pyproject.toml requires, and no more of it: other changes there leave the big layer as it is.
FROM ${PYTHON_IMAGE} AS requirements
COPY pyproject.toml /
RUN python3 -c "import tomllib; project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['s3'], sep='\n')" > /requirements.txt

FROM ${PYTHON_IMAGE} AS dependencies
RUN python3 -m venv --without-pip /opt/hpo
ENV PIP_PYTHON=/opt/hpo/bin/python PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt /
COPY --from=requirements /requirements.txt /
ARG COMPILE
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --constraint /constraints.txt --requirement /requirements.txt \
    && { test -n "${COMPILE}" || python3 -m pip uninstall --yes triton; }

FROM dependencies AS code
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY hpo hpo
COPY trainer trainer
COPY storage storage
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --no-deps --prefix /code .

FROM ${PYTHON_IMAGE}
ARG COMPILE
RUN test -z "${COMPILE}" \
    || { apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*; }
# Any user may be given to a container, so the home folder is open to all, like /tmp; weights are downloaded there.
RUN useradd --uid 10001 --no-create-home --home-dir /home/hpo hpo \
    && install --directory --mode 1777 /home/hpo \
    && install --directory --owner hpo --group hpo /work
COPY --from=dependencies /opt/hpo /opt/hpo
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/hpo-entrypoint
COPY --chmod=755 docker/passwords.sh /usr/local/bin/hpo-passwords
COPY --from=code /code /opt/hpo
COPY --chmod=755 docker/hpo.sh /opt/hpo/bin/hpo
# Safe path: a clone that is the working directory is no code to run.
ENV PATH=/opt/hpo/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONSAFEPATH=1 \
    HOME=/home/hpo \
    USER=hpo \
    PYTHONUNBUFFERED=1 \
    NO_ALBUMENTATIONS_UPDATE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["hpo-entrypoint"]
CMD ["hpo", "--help"]
ARG VERSION=""
ARG SOURCE=""
ARG REVISION=""
LABEL org.opencontainers.image.title="hpo" \
      org.opencontainers.image.description="Hyperparameter search for image classification" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}"
