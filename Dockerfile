# An image with xmrank and all that it needs, for one machine or for the nodes of a cluster.
#
#   docker build --build-arg FAISS=gpu -t xmrank:0.1.0-gpu .
#   docker run --rm --shm-size 8g -v xmrank-data:/data xmrank:0.1.0-gpu python jobs/experiment.py --preset demo
FROM python:3.12-slim

# cpu or gpu: which build of FAISS. PyTorch is the same for both and brings its own CUDA libraries.
ARG FAISS=cpu

# Ray's cluster launcher copies files to the nodes with these.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync \
    && rm -rf /var/lib/apt/lists/*

# Dependencies come first: a change of the code does not install them again. boto3 is what the launcher calls AWS with.
WORKDIR /opt/xmrank
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir xmrank && touch xmrank/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt ".[${FAISS},aws,s3]" \
    && pip uninstall --yes xmrank
COPY xmrank xmrank
COPY jobs jobs
RUN pip install --no-cache-dir --constraint constraints.txt --no-deps .

# Nothing runs as root. User 1000 is also that of the hosts and pods of a cluster, so it can use what they mount.
RUN useradd --create-home --uid 1000 xmrank && mkdir /data /cache && chown xmrank /data /cache
USER xmrank
# Workers keep the memory of large arrays, as xmrank sets for clusters that it starts itself.
ENV XMRANK_HOME=/data XMRANK_CACHE=/cache PYTHONUNBUFFERED=1 \
    MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824
CMD ["python", "jobs/experiment.py", "--help"]
