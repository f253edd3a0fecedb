#!/bin/sh
# Starts the appliance qwen3-omni with plain `docker run`.
# Rendered by `appliance render run`: the same container as `appliance render compose` gives.
set -eu
exec docker run --detach \
  --name qwen3-omni \
  --restart unless-stopped \
  --network bridge \
  --publish 127.0.0.1:8000:8000 \
  --init \
  --read-only \
  --cap-drop ALL \
  --security-opt no-new-privileges:true \
  --tmpfs /tmp:rw,exec,nosuid,nodev,mode=1777,size=4g \
  --shm-size 1073741824 \
  --mount type=bind,source=/opt/appliance/models/tiny-omni,target=/models/tiny-omni,readonly \
  --mount type=volume,source=qwen3-omni-cache,target=/var/cache/appliance \
  --env APPLIANCE_SERVER_MAX_BODY_MB=128 \
  --env APPLIANCE_SERVER_MAX_MEDIA_MB=4096 \
  --env APPLIANCE_SERVER_MAX_MEDIA_SECONDS=2400 \
  --env HEALTHCHECKS_URL=http://127.0.0.1:8000 \
  --env HF_HUB_OFFLINE=1 \
  --env HOME=/tmp \
  --env NUMBA_CACHE_DIR=/var/cache/appliance/numba \
  --env TORCHDYNAMO_DISABLE=1 \
  --env TORCHINDUCTOR_CACHE_DIR=/var/cache/appliance/torchinductor \
  --env TRITON_CACHE_DIR=/var/cache/appliance/triton \
  --env VLLM_CACHE_ROOT=/var/cache/appliance/vllm \
  --env VLLM_CPU_KVCACHE_SPACE=1 \
  --env VLLM_ENGINE_READY_TIMEOUT_S=3600 \
  --env VLLM_MEDIA_URL_ALLOW_REDIRECTS=0 \
  --env VLLM_NO_USAGE_STATS=1 \
  --env XDG_CACHE_HOME=/var/cache/appliance \
  --health-cmd 'python3 -m healthchecks progress --watched /tmp/appliance-progress.json' \
  --health-interval 30s \
  --health-timeout 60s \
  --health-start-period 3600s \
  --health-retries 3 \
  --stop-signal SIGINT \
  --stop-timeout 60 \
  --log-driver json-file \
  --log-opt max-file=3 \
  --log-opt max-size=50m \
  --label appliance.name=qwen3-omni \
  --label appliance.plan-hash=6d49291f6b0b0d0ab5845fa26eae088b0550c4d60608152a4c679d535f4b9281 \
  --label 'appliance.plan={"api_key_stamp":null,"cap_drop":["ALL"],"command":["python3","-m","appliance.supervisor","vllm","serve","/models/tiny-omni","--served-model-name","tiny-omni","--host","0.0.0.0","--port","8000","--tensor-parallel-size","1","--max-model-len","32768","--limit-mm-per-prompt","{\"audio\":3,\"image\":5,\"video\":2}","--reasoning-parser","deepseek_r1","--allowed-media-domains","data-urls-only.invalid","--h11-max-incomplete-event-size","65536","--middleware","appliance.inside.guard.Guard","--shutdown-timeout","45","--disable-access-log-for-endpoints","/health,/metrics","--enforce-eager","--structured-outputs-config","{\"backend\":\"guidance\"}"],"devices":[],"environment":[["APPLIANCE_SERVER_MAX_BODY_MB","128"],["APPLIANCE_SERVER_MAX_MEDIA_MB","4096"],["APPLIANCE_SERVER_MAX_MEDIA_SECONDS","2400"],["HEALTHCHECKS_URL","http://127.0.0.1:8000"],["HF_HUB_OFFLINE","1"],["HOME","/tmp"],["NUMBA_CACHE_DIR","/var/cache/appliance/numba"],["TORCHDYNAMO_DISABLE","1"],["TORCHINDUCTOR_CACHE_DIR","/var/cache/appliance/torchinductor"],["TRITON_CACHE_DIR","/var/cache/appliance/triton"],["VLLM_CACHE_ROOT","/var/cache/appliance/vllm"],["VLLM_CPU_KVCACHE_SPACE","1"],["VLLM_ENGINE_READY_TIMEOUT_S","3600"],["VLLM_MEDIA_URL_ALLOW_REDIRECTS","0"],["VLLM_NO_USAGE_STATS","1"],["XDG_CACHE_HOME","/var/cache/appliance"]],"group_add":[],"healthcheck":{"command":"python3 -m healthchecks progress --watched /tmp/appliance-progress.json","interval":30,"retries":3,"start_period":3600,"timeout":60},"image":"qwen3-omni-appliance:VERSION-v0.23.0-cpu","init":true,"log_driver":"json-file","log_options":[["max-file","3"],["max-size","50m"]],"memory_bytes":null,"mounts":[{"read_only":true,"source":"/opt/appliance/models/tiny-omni","target":"/models/tiny-omni","type":"bind"},{"read_only":false,"source":"qwen3-omni-cache","target":"/var/cache/appliance","type":"volume"}],"name":"qwen3-omni","network":"bridge","ports":[{"container":8000,"host":8000,"host_ip":"127.0.0.1"}],"privileged":false,"read_only":true,"restart":"unless-stopped","runtime":null,"security_opt":["no-new-privileges:true"],"shm_size_bytes":1073741824,"stop_signal":"SIGINT","stop_timeout":60,"tmpfs":[{"options":"rw,exec,nosuid,nodev,mode=1777,size=4g","target":"/tmp"}],"ulimits":[]}' \
  qwen3-omni-appliance:VERSION-v0.23.0-cpu \
  python3 -m appliance.supervisor vllm serve /models/tiny-omni \
    --served-model-name tiny-omni \
    --host 0.0.0.0 \
    --port 8000 \
    --tensor-parallel-size 1 \
    --max-model-len 32768 \
    --limit-mm-per-prompt '{"audio":3,"image":5,"video":2}' \
    --reasoning-parser deepseek_r1 \
    --allowed-media-domains data-urls-only.invalid \
    --h11-max-incomplete-event-size 65536 \
    --middleware appliance.inside.guard.Guard \
    --shutdown-timeout 45 \
    --disable-access-log-for-endpoints /health,/metrics \
    --enforce-eager \
    --structured-outputs-config '{"backend":"guidance"}'
