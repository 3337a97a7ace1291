import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../engine/formats/chat-template.js';
import type { ChatMessage } from '../../engine/formats/tokenizer.js';
import { goldenPath } from '../kit/golden.js';

const { templates, conversations, rendered } = JSON.parse(readFileSync(goldenPath('tokenizer-families/templates.json'), 'utf8')) as {
  templates: Record<string, string>;
  conversations: Record<string, ChatMessage[]>;
  rendered: { template: string; conversation: string; prompt: boolean; text?: string; error?: string }[];
};

describe.each(Object.keys(templates))('a template with %s', (name) => {
  const template = new ChatTemplate(templates[name], { bos_token: '<s>', eos_token: '</s>' });

  it.each(rendered.filter((entry) => entry.template === name))('renders $conversation as transformers does (answer to follow: $prompt)', ({ conversation, prompt, text, error }) => {
    const render = () => template.render(conversations[conversation], { addGenerationPrompt: prompt });
    if (error === undefined) expect(render()).toBe(text);
    else expect(render).toThrow(`got: ${error}`);
  });
});
