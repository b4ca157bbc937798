// wasi.mjs - runs a WebAssembly program that may read files below the current folder: wasi.mjs PROGRAM [ARGUMENT]...
// SPDX-License-Identifier: MIT
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';

const args = process.argv.slice(2);
const system = new WASI({ version: 'preview1', args, env: {}, preopens: { '.': '.' }, returnOnExit: true });
const program = new WebAssembly.Module(readFileSync(args[0]));
const running = new WebAssembly.Instance(program, { wasi_snapshot_preview1: system.wasiImport });
process.exitCode = system.start(running);
