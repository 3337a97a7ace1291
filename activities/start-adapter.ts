import { isDeepStrictEqual } from 'node:util';
import { join } from 'node:path';
import type { LoraConfig } from '../contracts/fine-tune-config.js';
import type { Problem } from '../contracts/pipeline.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { adaptedModules } from '../engine/formats/lora-modules.js';
import { peftTensorName } from '../engine/formats/peft-adapter.js';
import { readPeftConfig, type PeftAdapterConfig } from '../engine/formats/peft-config.js';
import { SafetensorsFile } from '../engine/formats/safetensors.js';

/** The adapter that a training goes on from. */
export interface StartAdapter {
  options: PeftAdapterConfig;
  /** Shapes of its tensors, by name. */
  shapes: ReadonlyMap<string, readonly number[]>;
}

/** Reads an adapter's options and headers. Throws FormatError where it uses what is not known here. */
export async function readStartAdapter(directory: string): Promise<StartAdapter> {
  const options = await readPeftConfig(directory);
  const file = await SafetensorsFile.open(join(directory, 'adapter_model.safetensors'));
  try {
    return { options, shapes: new Map([...file.entries].map(([name, { shape }]) => [name, shape])) };
  } finally {
    await file.close();
  }
}

/** Options that an adapter has once and for all; dropout and how fast it learns may be others when it is trained on. */
const settled = [
  'rank', 'alpha', 'rankPattern', 'alphaPattern', 'useRsLora', 'useDora', 'bias', 'targetModules', 'excludeModules', 'layersToTransform', 'modulesToSave',
] as const satisfies readonly (keyof LoraConfig & keyof PeftAdapterConfig)[];

/**
 * The options of a training that goes on from an adapter: the adapter's own. Those that the user gave must be the same.
 * @param given the user's own part of the configuration, before any default
 */
export function takeOptions(config: LoraConfig, { options }: StartAdapter, given: unknown): { lora: LoraConfig; problems: Problem[] } {
  const named = typeof given === 'object' && given !== null ? given : {};
  const problems = settled.flatMap((name): Problem[] => {
    const [expected, got] = [options[name], config[name]];
    if (!(name in named) || isDeepStrictEqual(inOrder(expected), inOrder(got))) return [];
    return [{ path: `lora.${name}`, message: `expected ${JSON.stringify(expected) ?? 'none'}, as the adapter of lora.from has, got ${JSON.stringify(got)}` }];
  });
  const own = Object.fromEntries([...settled, ...('dropout' in named ? [] : ['dropout' as const])].map((name) => [name, options[name]]));
  return { lora: { ...config, ...own }, problems };
}

/** Problems of options that are the adapter's and not the user's, as problems of the adapter. */
export function ofAdapter(problems: readonly Problem[], given: unknown): Problem[] {
  const named = typeof given === 'object' && given !== null ? given : {};
  return problems.map((problem) => {
    const option = settled.find((name) => problem.path.split(/[.[]/, 2).join('.') === `lora.${name}`);
    if (option === undefined || option in named) return problem;
    return { path: 'lora.from', message: `the adapter's ${problem.path.slice('lora.'.length)} does not fit the model: ${problem.message}` };
  });
}

const inOrder = (value: unknown): unknown => (Array.isArray(value) ? [...value].sort() : value);

/** Whether the adapter's tensors are those that its options and the model call for. */
export function adapterProblems({ options, shapes }: StartAdapter, model: LlamaConfig): Problem[] {
  const expected = new Map(adaptedModules(model, options).flatMap(({ path, rank, shape: [out, inner] }) => [
    [peftTensorName(path, 'A'), [rank, inner]] as const, [peftTensorName(path, 'B'), [out, rank]] as const,
  ]));
  const wrong = [...expected].flatMap(([name, shape]) => {
    const found = shapes.get(name);
    return found?.join() === shape.join() ? [] : [`${name}: expected [${shape.join(',')}], got ${found ? `[${found.join(',')}]` : 'none'}`];
  });
  const others = [...shapes.keys()].filter((name) => /\.lora_[AB]\.weight$/.test(name) && !expected.has(name)).map((name) => `${name}: expected no such tensor`);
  const all = [...wrong, ...others];
  if (all.length === 0) return [];
  return [{ path: 'lora.from', message: `it does not fit the model: ${all.slice(0, 5).join('; ')}${all.length > 5 ? `; and ${all.length - 5} more` : ''}` }];
}
