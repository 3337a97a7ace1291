import { Template } from '@huggingface/jinja';
import { EngineError } from '../errors.js';
import { strftime } from './strftime.js';
import type { ChatMessage } from './tokenizer.js';

/** A chat template in Jinja, compiled at its first use. Functions are Hugging Face's: `raise_exception`, `strftime_now`. */
export class ChatTemplate {
  private compiled?: Template;

  constructor(
    readonly source: string,
    /** Names that templates expect beside the messages: `bos_token`, `eos_token` … */
    private readonly specialTokens: Readonly<Record<string, string>>,
  ) {}

  /** Throws `chat_template` with what the template says, e.g. that it knows no system role. */
  render(messages: ChatMessage[], options: { addGenerationPrompt: boolean }): string {
    try {
      this.compiled ??= new Template(englishDates + this.source);
      // transformers too gives none where there are no tools and documents, which templates tell from a name that is not defined.
      return this.compiled.render({ tools: null, documents: null, english_date: englishDate, ...this.specialTokens, messages, add_generation_prompt: options.addGenerationPrompt });
    } catch (error) {
      throw new EngineError('invalidInput', 'chat_template', `chat template: expected to render ${messages.length} messages, got: ${(error as Error).message}`);
    }
  }
}

const englishDate = (format: string): string => strftime(new Date(), format);
/** The library's own function names months in the machine's language. What is written after the block keeps a newline at the source's start. */
const englishDates = "{% set strftime_now = english_date %}{{ '' }}";

/** The `chat_template` of tokenizer_config.json: a string, or a list of named ones of which `default` counts. */
export function chatTemplateSource(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.find((entry: unknown) => typeof entry === 'object' && entry !== null && (entry as { name?: unknown }).name === 'default') as { template?: unknown } | undefined;
  return typeof named?.template === 'string' ? named.template : undefined;
}
