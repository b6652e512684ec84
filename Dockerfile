# Inference only: Python, the packages of requirements.lock that it needs, inference/ and weights/.
#
#   docker build -t nested-vnet-kits19 .                    GPU and CPU (the torch wheel that PyPI gives)
#   docker build -t nested-vnet-kits19 \
#     --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .         CPU only, far smaller
#   docker build -t nested-vnet-kits19 --target cpu .       CPU only, without PyTorch: the smallest
#   docker build -t nested-vnet-kits19 --build-arg EXTRAS=dicom .                with --output-format dicom-seg
#   docker build -t nested-vnet-kits19 --target grand-challenge .                serves Grand Challenge's invoke API
#
#   docker run --rm [--gpus all] --network none --user "$(id -u):$(id -g)" \
#     -v "$PWD/in":/input:ro -v "$PWD/out":/output nested-vnet-kits19

FROM python:3.11-slim-bookworm AS build-cpu

# For builds without a network: PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder or address with wheels>, as pip knows them.
ARG PIP_NO_INDEX=
ARG PIP_FIND_LINKS=

COPY lock.py requirements.lock /tmp/
# --no-deps: the lock names every package; pip checks each against its hash
RUN python3.11 -m venv --without-pip /opt/venv \
 && python3.11 /tmp/lock.py openvino > /tmp/pins.txt \
 && python3.11 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
      --no-deps -r /tmp/pins.txt

# Remove what inference never loads. tests/test_container.py runs the result on every sample case.
RUN set -eu; cd /opt/venv/lib/python3.11/site-packages; \
    # OpenVINO's other devices (Intel GPU and NPU), readers of model formats, headers for C++
    find openvino/libs \( -name '*_gpu_*' -o -name '*_npu_*' -o -name '*_auto_*' -o -name '*_hetero_*' \
      -o -name '*_frontend*' -o -name '*_c.so*' -o -name cache.json \) -delete; \
    rm -rf openvino/include openvino/cmake numpy/_core/include; \
    find . \( -name '*.a' -o -name '*.pyi' \) -delete; \
    # pydicom's samples and its dictionaries of codes (the extra dicom, which writes codes, brings pydicom whole)
    rm -rf pydicom/data/test_files pydicom/data/charset_files pydicom/sr; \
    # AVIF pictures
    rm -f PIL/_avif.* pillow.libs/libavif*; \
    # test suites
    find numpy scipy nibabel safetensors -depth -type d \( -name tests -o -name benchmarks \) -exec rm -rf {} +; \
    # nibabel imports importlib_resources only in its test helpers; OpenVINO's telemetry would report
    # conversions, which nobody does here
    python3.11 -m pip --python /opt/venv/bin/python uninstall -q -y importlib_resources openvino-telemetry; \
    rm -rf /opt/venv/bin/activate* /opt/venv/bin/Activate* /opt/venv/include; \
    # bytecode that is not compared with its source, because nothing changes at run time; some files are for
    # newer Pythons and do not compile
    /opt/venv/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash . || true

COPY inference /app/inference
COPY weights /app/weights
COPY LICENSE /app/LICENSE
RUN chmod -R a+rX,go-w /app /opt/venv \
 && python3.11 -m compileall -q --invalidation-mode unchecked-hash /app \
 # stops the build here if a package was removed that is needed
 && PYTHONPATH=/app /opt/venv/bin/python -m inference --help > /dev/null \
 && PYTHONPATH=/app /opt/venv/bin/python -c "import inference.networks.backends as b, inference.networks.weights as w, pathlib; \
b.Backend('openvino', 'cpu', 1).network(w.load_weights(pathlib.Path('/app/weights/kidney.safetensors'), 'kidney'))"

FROM build-cpu AS build

# Another package index beside PyPI: its build of torch wins by its version (2.13.0+cpu > 2.13.0).
ARG TORCH_INDEX_URL=
ARG PIP_NO_INDEX=
ARG PIP_FIND_LINKS=

RUN set -eu; \
    python3.11 /tmp/lock.py --without-base torch > /tmp/pins.txt; \
    python3.11 /tmp/lock.py --unhashed torch > /tmp/torch.txt; \
    pip="python3.11 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --disable-pip-version-check"; \
    $pip --no-deps -r /tmp/pins.txt; \
    # with its own dependencies: those of the GPU wheel (CUDA) are not in the lock
    $pip ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r /tmp/torch.txt; \
    cd /opt/venv/lib/python3.11/site-packages; \
    # sources and programs of PyTorch's own tests; torch/testing stays, torch/autograd imports it
    rm -rf torch/test; \
    rm -f torch/lib/libtorchbind_test.so torch/lib/libjitbackend_test.so torch/lib/libaoti_custom_ops.so \
      torch/lib/libbackend_with_compiler.so; \
    # protoc and test programs; torch_shm_manager stays, because `import torch` looks for it
    find torch/bin -mindepth 1 ! -name torch_shm_manager -delete; \
    # for compiling C++ against torch: headers, CMake files, static libraries, type stubs
    rm -rf torch/include torch/share; \
    find . \( -name '*.a' -o -name '*.pyi' \) -delete; \
    # CUDA's linear algebra, which torch opens at the first call of it (no network calls any); NVRTC's second
    # build, profilers, wrappers, transports between GPUs: nothing that torch loads asks for them. All other
    # libraries are asked for by libtorch_cuda.so itself or opened by cuDNN: benchmarks/wheels.py shows which
    rm -rf torch/lib/libtorch_cuda_linalg.so nvidia/*/include \
      nvidia/cu13/lib/libcusolver* nvidia/cu13/lib/libnvrtc*.alt.so* nvidia/cu13/lib/libnvperf* \
      nvidia/cu13/lib/libpcsamplingutil* nvidia/cu13/lib/libcheckpoint* nvidia/cu13/lib/libcufftw* \
      nvidia/cu13/lib/libnvblas* nvidia/cu13/lib/libcufile_rdma* \
      nvidia/nvshmem/lib/nvshmem_* nvidia/nvshmem/lib/*.bc; \
    # torch imports these only to trace or compile a model (sympy, mpmath, networkx, jinja2, triton), to write
    # checkpoints to remote file systems (fsspec), to lock a download (filelock) and to build extensions
    # (setuptools)
    python3.11 -m pip --python /opt/venv/bin/python uninstall -q -y \
      sympy mpmath networkx Jinja2 MarkupSafe fsspec filelock setuptools triton; \
    rm -rf _distutils_hack distutils-precedence.pth /opt/venv/include; \
    /opt/venv/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash . || true
# stops the build here if a package was removed that is needed
RUN PYTHONPATH=/app /opt/venv/bin/python -c "import torch, inference.networks.backends as b, inference.networks.weights as w, pathlib; \
b.Backend('torch', 'cpu', 1).network(w.load_weights(pathlib.Path('/app/weights/kidney.safetensors'), 'kidney'))"


# Optional extras (EXTRAS="dicom") in a folder of their own, so that all images share the large layer.
FROM python:3.11-slim-bookworm AS extra
ARG PIP_NO_INDEX=
ARG PIP_FIND_LINKS=
ARG EXTRAS=
COPY lock.py requirements.lock /tmp/
RUN mkdir /opt/extra \
 && if [ -n "$EXTRAS" ]; then \
      # pydicom again: the one beside it is trimmed, and this folder comes first
      python3.11 /tmp/lock.py --without-base --with pydicom $EXTRAS > /tmp/pins.txt \
      && python3.11 -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --no-deps --target /opt/extra -r /tmp/pins.txt \
      && python3.11 -m compileall -q --invalidation-mode unchecked-hash /opt/extra; \
    fi


FROM python:3.11-slim-bookworm AS runtime

# No installer, no setuid program, no folder but /tmp that everybody may write. Mount points are made here for
# engines that cannot make them in a read-only image.
RUN python3.11 -c "import glob, importlib.util as u, os, shutil; \
[shutil.rmtree(p) for n in ('pip', 'setuptools', 'wheel', 'pkg_resources', 'ensurepip') if (s := u.find_spec(n)) \
 for d in s.submodule_search_locations for p in [d, *glob.glob(os.path.dirname(d) + '/' + n + '-*-info')]]" \
 && rm -f /usr/local/bin/pip* /usr/bin/pip* \
 && find / -xdev \( -type f -o -type d \) -perm /6000 -exec chmod a-s {} + \
 && find / -xdev \( -type f -o -type d \) -perm -0002 ! -path /tmp -exec chmod o-w {} + \
 && mkdir -p /input /output /opt/ml/model

COPY --from=extra /opt/extra /opt/extra

# Python writes nothing into the image, imports nothing from the working folder, and logs without delay.
# OpenBLAS is never used but would start one thread per core: 128 cores alone would reach --pids-limit.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app:/opt/extra \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "-m", "inference"]

# inference/version.py's (a test compares them)
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="nested-vnet-kits19" \
      org.opencontainers.image.description="Kidney and kidney-tumor segmentation in CT: cascaded 3D V-Nets. Non-commercial research use only, no medical device." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-NC-SA-4.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"


# Without PyTorch: CPUs only.
FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
COPY --from=build-cpu /app /app
# Last, so that a new commit costs no copy; run.sh build fills it in, and reports name it.
ARG REVISION=
ENV SOURCE_COMMIT=${REVISION}
LABEL org.opencontainers.image.revision="${REVISION}"


FROM runtime AS image
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ARG REVISION=
ENV SOURCE_COMMIT=${REVISION}
LABEL org.opencontainers.image.revision="${REVISION}"


# For Grand Challenge: a server with the invoke API of its algorithm template, which the label announces.
FROM image AS grand-challenge
LABEL org.grand-challenge.api-method="invoke"
ARG OUTPUT_SLUG=kidney-tumor-segmentation
ENV OUTPUT_SLUG=${OUTPUT_SLUG}
EXPOSE 4743
ENTRYPOINT ["python", "-m", "inference.serve"]


# The target that is built by default.
FROM image
