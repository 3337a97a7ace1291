import { FormatError } from '../format-error.js';
import type { Architecture } from './architecture.js';
import { llama } from './llama.js';
import { mistral } from './mistral.js';
import { qwen2 } from './qwen2.js';
import { qwen3 } from './qwen3.js';
import { smollm3 } from './smollm3.js';

/** Every family of models that can be read, trained and written. A new one is a file beside this and a line here. */
export const architectures: readonly Architecture[] = [llama, mistral, qwen2, qwen3, smollm3];

/** By `model_type` of config.json. Throws `unsupported`, with the list of those there are. */
export function architectureOf(modelType: unknown, path: string): Architecture {
  return find(architectures, ({ modelType }) => modelType, modelType, 'model_type', path);
}

/** By `general.architecture` of a GGUF; where two share one, the first of the list. Throws `unsupported`. */
export function ggufArchitectureOf(name: unknown, path: string): Architecture {
  return find(architectures, ({ gguf }) => gguf.name, name, 'general.architecture', path);
}

function find(list: readonly Architecture[], key: (architecture: Architecture) => string, wanted: unknown, subject: string, path: string): Architecture {
  const found = list.find((architecture) => key(architecture) === wanted);
  if (found) return found;
  const known = [...new Set(list.map(key))].join(', ');
  throw new FormatError('unsupported', path, `${subject}: expected one of the supported architectures (${known}), got ${JSON.stringify(wanted)?.slice(0, 80) ?? 'none'}`);
}
