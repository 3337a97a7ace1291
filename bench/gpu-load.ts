/**
 * Loading a model: safetensors on disk to matrices on the device.
 *   gpu-load check [SEED]             every case of test/gpu/cases/upload.ts, without a test runner
 *   gpu-load MODEL FOLDER [BASE...]   writes a random model in bf16 to the folder, unless one is there, and loads it twice a base: nf4, int8, bf16
 */
import { existsSync } from 'node:fs';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import { huggingFaceConfig } from '../engine/formats/huggingface-config.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { llamaTensors } from '../engine/formats/llama-tensors.js';
import { openModel } from '../engine/formats/open-model.js';
import { disposeModel, loadModel } from '../engine/model/load.js';
import { selectBackend } from '../engine/tensor/backends.js';
import type { BaseDtype } from '../engine/tensor/frozen-weight.js';
import { differences, refusal, uploadCases } from '../test/gpu/cases/upload.js';
import { modelShapes } from './random-model.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
const backend = findBackend('cuda') as CudaBackend;
const [what, ...rest] = process.argv.slice(2);

if (what === 'check') {
  const seed = Number(rest[0] ?? Date.now() % 2 ** 31);
  let failures = 0;
  for (const one of uploadCases) {
    const count = await differences(backend, one, seed);
    if (count > 0) console.log(`FAIL ${one.name}: ${count} values differ`);
    if (count > 0) failures++;
  }
  console.log(`refusals: ${await refusal(backend, 'bf16', -Infinity)}; ${uploadCases.length} cases, seed ${seed}: ${failures} failed`);
} else {
  const folder = rest[0];
  if (!existsSync(join(folder, 'config.json'))) await writeRandomModel(modelShapes[what as keyof typeof modelShapes], folder);
  for (const base of rest.length > 1 ? rest.slice(1) : ['nf4', 'int8', 'bf16']) {
    for (const turn of ['first', 'second']) {
      const started = performance.now();
      const source = await openModel(folder);
      const model = await loadModel(source, (base === 'nf4' ? { dtype: 'nf4', doubleQuant: true } : { dtype: base }) as BaseDtype);
      backend.device.synchronize();
      const seconds = (performance.now() - started) / 1000;
      await source.close();
      console.log(`RESULT load ${what} as ${base}, ${turn} time: ${seconds.toFixed(2)} s, ${(model.parameters / 1e9).toFixed(2)} G parameters, ${(backend.device.memory.memory().inUse / 2 ** 30).toFixed(2)} GiB in use`);
      if (turn === 'second') console.log(`ROW ${JSON.stringify({ seconds: Number(seconds.toFixed(2)), peakGiB: Number((backend.device.memory.memory().peakInUse / 2 ** 30).toFixed(2)) })}`);
      disposeModel(model);
    }
  }
}
process.exit(0);

/** One piece of random bf16 values over and over, as what is timed does not depend on the values. */
async function writeRandomModel(config: LlamaConfig, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const [name, shape] of llamaTensors(config)) {
    const start = end;
    end += 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: 'BF16', shape, data_offsets: [start, end] };
  }
  const json = Buffer.from(JSON.stringify(header)), prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.length));
  const piece = new Uint16Array(16 << 20);
  let state = 1;
  for (let i = 0; i < piece.length; i++) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    piece[i] = 0x3c00 | (state & 0x81ff); // about ±0.01 to ±0.04
  }
  const file = await open(join(folder, 'model.safetensors'), 'w');
  await file.write(Buffer.concat([prefix, json]));
  for (let at = 0; at < end; at += piece.byteLength) await file.write(new Uint8Array(piece.buffer, 0, Math.min(piece.byteLength, end - at)));
  await file.close();
  await writeFile(join(folder, 'config.json'), JSON.stringify(huggingFaceConfig(config, 'bf16')));
}
