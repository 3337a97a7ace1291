import { EngineError } from '../errors.js';
import { architectureOf } from '../formats/architectures/index.js';
import { ggufName } from '../formats/gguf-names.js';
import { ggufOrder } from '../formats/gguf-write-model.js';
import { f32, text, u32, writeGguf, type GgufField, type GgufTensorPlan } from '../formats/gguf-write.js';
import type { LlamaConfig } from '../formats/llama-config.js';
import type { LoraAdapter } from './adapter.js';

/** What of an adapter a GGUF cannot hold, which has A, B and one alpha alone; empty for a plain LoRA. */
export function ggufAdapterProblems({ tiedEmbeddings }: LlamaConfig, adapter: LoraAdapter): string[] {
  const { useDora = false, bias = 'none', modulesToSave = [] } = adapter.options;
  return [
    ...(useDora ? ['DoRA'] : []),
    ...(bias === 'none' ? [] : ['trained biases']),
    ...(modulesToSave.length > 0 ? [`modules trained in full (${modulesToSave.join(', ')})`] : []),
    ...(tiedEmbeddings && adapter.branch('lm_head') ? ['a branch on the head of tied embeddings'] : []),
  ];
}

/** Writes a LoRA adapter as a GGUF that llama.cpp loads onto a GGUF of the base. Throws `gguf_unsupported` for what it cannot hold. */
export async function writeGgufAdapter(path: string, config: LlamaConfig, adapter: LoraAdapter, name: string): Promise<void> {
  const problems = ggufAdapterProblems(config, adapter);
  if (problems.length > 0) throw new EngineError('invalidInput', 'gguf_unsupported', `adapter: a GGUF cannot hold ${problems.join(', ')}`);
  const { alpha } = adapter.options;
  const metadata = new Map<string, GgufField>([
    ['general.type', text('adapter')],
    ['general.architecture', text(architectureOf(config.architecture, name).gguf.name)],
    ['general.name', text(name)],
    ['general.file_type', u32(0)],
    ['adapter.type', text('lora')],
    ['adapter.lora.alpha', f32(alpha)],
  ]);
  const plan: GgufTensorPlan[] = [];
  const values = new Map<string, () => Promise<Float32Array>>();
  for (const module of adapter.modulePaths()) {
    const { a, b, scale } = adapter.branch(module)!;
    const weight = ggufName(`${module}.weight`);
    // llama.cpp multiplies a branch by alpha / rank; what its scale is beyond that goes into B.
    const beyond = (scale * a.shape[0]) / alpha;
    plan.push({ name: `${weight}.lora_a`, shape: a.shape, type: 'F32' }, { name: `${weight}.lora_b`, shape: b.shape, type: 'F32' });
    values.set(`${weight}.lora_a`, async () => (await a.data()) as Float32Array);
    values.set(`${weight}.lora_b`, async () => ggufOrder(weight, ((await b.data()) as Float32Array).map((value) => value * beyond), config));
  }
  await writeGguf(path, metadata, plan, (tensor) => values.get(tensor.name)!());
}
