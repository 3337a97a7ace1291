import type { Json } from './architectures/architecture.js';
import type { LlamaConfig } from './llama-config.js';
import type { RopeScaling } from './rope-scaling.js';

type RopeFacts = Pick<LlamaConfig, 'contextLength' | 'ropeTheta' | 'ropeScaling'>;

const types = ['default', 'linear', 'dynamic', 'llama3'];

/**
 * What config.json says about rotation. transformers 5 keeps all of it in `rope_parameters`, 4 has `rope_theta` beside
 * `rope_scaling`. `max_position_embeddings` is the context before `linear` and `dynamic` scaling, and after `llama3`'s.
 */
export function readRope(json: Json, problems: string[]): RopeFacts {
  const rope = (json.rope_scaling ?? json.rope_parameters ?? {}) as Json;
  const number = (subject: string, value: unknown): number => {
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    problems.push(`${subject}: expected a positive number, got ${JSON.stringify(value) ?? 'nothing'}`);
    return NaN;
  };
  const parameter = (key: string, fallback?: unknown): number => number(`rope ${key}`, rope[key] ?? fallback);

  const partial = rope.partial_rotary_factor ?? json.partial_rotary_factor ?? 1;
  if (partial !== 1) problems.push(`partial_rotary_factor: expected 1, got ${JSON.stringify(partial)}`);
  const length = number('max_position_embeddings', json.max_position_embeddings);
  const ropeTheta = number('rope_theta', rope.rope_theta ?? json.rope_theta ?? 10000);
  const type = (rope.rope_type ?? rope.type ?? 'default') as string;
  switch (type) {
    case 'default':
      return { contextLength: length, ropeTheta };
    case 'linear':
    case 'dynamic': {
      const factor = parameter('factor');
      return { contextLength: Math.floor(length * factor), ropeTheta, ropeScaling: { type, factor, originalContextLength: length } };
    }
    case 'llama3': {
      const ropeScaling: RopeScaling = {
        type,
        factor: parameter('factor'),
        lowFreqFactor: parameter('low_freq_factor'),
        highFreqFactor: parameter('high_freq_factor'),
        originalContextLength: number('original_max_position_embeddings', json.original_max_position_embeddings ?? rope.original_max_position_embeddings ?? length),
      };
      return { contextLength: length, ropeTheta, ropeScaling };
    }
    default:
      problems.push(`rope_type: expected one of ${types.join(', ')}, got ${JSON.stringify(type)}`);
      return { contextLength: length, ropeTheta };
  }
}

/** The keys that say it again, for transformers 4; 5 reads them too. */
export function ropeParameters({ contextLength, ropeTheta, ropeScaling }: LlamaConfig): Json {
  const before = ropeScaling && ropeScaling.type !== 'llama3' ? ropeScaling.originalContextLength : contextLength;
  return { max_position_embeddings: before, rope_theta: ropeTheta, rope_scaling: ropeScaling ? scalingParameters(ropeScaling) : null };
}

function scalingParameters(scaling: RopeScaling): Json {
  if (scaling.type !== 'llama3') return { rope_type: scaling.type, factor: scaling.factor };
  return {
    rope_type: 'llama3',
    factor: scaling.factor,
    low_freq_factor: scaling.lowFreqFactor,
    high_freq_factor: scaling.highFreqFactor,
    original_max_position_embeddings: scaling.originalContextLength,
  };
}
