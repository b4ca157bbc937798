#!/bin/bash
# web.sh - the page of tools/web in a headless Chromium: bash tests/web.sh [SSM [MODEL]]
# SPDX-License-Identifier: MIT
#
# Builds the page, opens it as a file, and has it hear a made-up recording as raw samples and as WAV, with both kinds of
# kernels, and check its digest; the scores must be those of `ssm score`. Needs chromium-headless-shell, clang-14, lld-14.
set -u
cd "$(dirname "$0")/.." || exit
ssm=$(realpath "${1:-build/ssm}") model=${2:-weights/digits-i8.safetensors} passed=0 failed=0
for tool in chromium-headless-shell clang++-14 wasm-ld-14; do
    command -v $tool >/dev/null && continue
    echo "web: skipped: needs $tool (Debian: apt-get install chromium-headless-shell clang-14 lld-14 libclang-rt-14-dev-wasm32)" >&2
    [ "${CI:-}" != true ]
    exit
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)) && printf 'FAILED: %s\n' "$@" >&2; }
has() { case $2 in *"$3"*) ok ;; *) no "$1" "  got:  ${2:0:1500}" "  want: $3" ;; esac; } # NAME TEXT PART

bash tools/web/make.sh "$ssm" "$model" "$out/page.html" || exit
# Half a second: a tone that rises, and noise. Its bytes, and what the program on this machine says to them.
awk 'BEGIN { for (t = 0; t < 4000; ++t) { r = (r * 1103 + 12345) % 65536
    v = int(9000 * sin(t * (0.1 + t / 20000)) * sin(t / 4000 * 3.14159) + r / 64); if (v < 0) v += 65536
    printf "\\x%02x\\x%02x", v % 256, int(v / 256) } }' >"$out/escapes"
printf "$(cat "$out/escapes")" >"$out/a.raw"
want=$("$ssm" score "$model" --s16 8000 --last <"$out/a.raw" | awk '{ for (i = 1; i <= NF; ++i) printf "%s%.2f", (i > 1 ? " " : ""), $i }')
[ -n "$want" ] || no "no scores to compare with"
raw=$(base64 -w0 "$out/a.raw")
cat >"$out/test.js" <<EOF
<script>
async function selfTest() {
  const raw = bytesOf("$raw"), head = new DataView(new ArrayBuffer(44));
  const put = (at, s) => [...s].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
  put(0, "RIFF"), put(8, "WAVEfmt "), put(36, "data");
  head.setUint32(4, 36 + raw.length, true), head.setUint32(16, 16, true), head.setUint16(20, 1, true);
  head.setUint16(22, 1, true), head.setUint32(24, 8000, true), head.setUint32(28, 16000, true);
  head.setUint16(32, 2, true), head.setUint16(34, 16, true), head.setUint32(40, raw.length, true);
  for (const kind of Object.keys(models)) {
    document.getElementById("variant").value = kind;
    await listen(new File([raw], kind + ".raw"));
    await listen(new File([head.buffer, raw], kind + ".wav"));
  }
  await listen(new File([new Uint8Array([1, 2, 3])], "bad.wav"));
  log("points " + history.length + " heard " + document.getElementById("heard").textContent);
  log(check() ? "all is well" : "all is not well");
  document.title = "tested";
}
</script>
EOF
sed -i "/^<script>\$/{
r $out/test.js
N
}" "$out/page.html"
dom=$(timeout 120 chromium-headless-shell --no-sandbox --virtual-time-budget=30000 --dump-dom "file://$out/page.html" 2>/dev/null |
    awk '/<pre id="log">/ { on = 1 } on { print } /<\/pre>/ { exit }')
for kind in SIMD scalar; do
    for form in raw wav; do
        line=$(grep -o "$kind.$form: .*" <<<"$dom")
        has "$kind, $form: the scores of ssm score" "$line" "scores $want"
    done
    has "$kind: the digest of every machine" "$(grep "^$kind (" <<<"$dom")" ", as on every other machine"
done
has "SIMD runs with SIMD" "$dom" "SIMD (simd128)"
has "scalar runs without" "$dom" "scalar (scalar)"
has "not a recording" "$dom" "bad.wav: cannot be read as a recording"
has "a curve of a point a step" "$dom" "points "
has "digests" "$dom" "all is well"
echo "web: $passed passed, $failed failed"
[ $failed = 0 ]
