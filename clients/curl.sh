#!/bin/sh
# The server's endpoints with curl alone:  clients/curl.sh [EXAMPLE]
#
#   health    is it alive, is it ready?
#   models    the loaded checkpoints
#   sample    denoise from nothing, each step as a server-sent event (the default)
#   block     the same, block by block, after a prompt
#   hybrid    the same with the hybrid process
#   infill    fill the [MASK] holes of a template
#   decoder   the surest tokens first, all that are sure enough at once; each with its log-probability
#   json      no stream: one JSON object when it is done
#   score     how likely two texts are
#   tokenize  the tokens of a text
#
# TD_URL      where the server is; http://127.0.0.1:8000 without it
# TD_API_KEY  sent as a bearer token, if set
#
# A refused request prints the server's {"error": {...}} and exits with curl's code 22.
set -eu

url=${TD_URL:-http://127.0.0.1:8000}

# -N prints events as they come, instead of when a buffer is full.
request() {
    path=$1
    shift
    curl -sS -N --fail-with-body ${TD_API_KEY:+-H "Authorization: Bearer $TD_API_KEY"} "$@" "${url%/}$path"
    echo
}

post() {
    request "$1" -H 'Content-Type: application/json' -d "$2"
}

case ${1:-sample} in
    health)
        request /health
        request /ready
        ;;
    models)
        request /models
        ;;
    sample)
        post /sample '{"seq_len": 32, "num_inference_steps": 16, "seed": 7, "include_text": true}'
        ;;
    block)
        post /sample/block '{"prompt": "once upon a time", "seq_len": 64, "block_size": 16, "num_inference_steps": 16,
            "top_p": 0.9, "seed": 7, "include_text": true}'
        ;;
    hybrid)
        post /sample/hybrid '{"seq_len": 32, "num_inference_steps": 32, "seed": 7, "include_text": true}'
        ;;
    infill)
        # Without seq_len the template's length is the sample's.
        post /sample '{"template": "the [MASK] [MASK] sat on the [MASK].", "seed": 7, "include_text": true}'
        ;;
    decoder)
        post /sample '{"seq_len": 32, "sampler": "confidence", "threshold": 0.9, "logprobs": true, "seed": 7,
            "include_text": true}'
        ;;
    json)
        post /sample '{"num_samples": 2, "seq_len": 32, "num_inference_steps": 32, "seed": 7, "stream": false}'
        ;;
    score)
        post /score '{"texts": ["to be, or not to be", "be be be be be"], "num_times": 8, "seed": 7}'
        ;;
    tokenize)
        post /tokenize '{"prompt": "to be, or not to be"}'
        ;;
    *)
        echo "usage: clients/curl.sh [health|models|sample|block|hybrid|infill|decoder|json|score|tokenize], got '$1'" >&2
        exit 2
        ;;
esac
