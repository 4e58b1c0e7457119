# An image with xmrank and everything it needs, for one machine or for the nodes of a cluster.
#
#   docker build --build-arg FAISS=gpu -t xmrank .
#   docker run --rm --shm-size 8g -v xmrank-data:/data xmrank python jobs/experiment.py --preset demo
FROM python:3.12-slim

# cpu or gpu: which build of FAISS. PyTorch is the same for both and brings its own CUDA libraries.
ARG FAISS=cpu

WORKDIR /opt/xmrank
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY xmrank xmrank
COPY jobs jobs
RUN pip install --no-cache-dir --constraint constraints.txt ".[${FAISS}]"

# Nothing runs as root. Data and runs go to a volume that this user owns.
RUN useradd --create-home --uid 1000 xmrank && mkdir /data && chown xmrank /data
USER xmrank
ENV XMRANK_HOME=/data
CMD ["python", "jobs/experiment.py", "--help"]
