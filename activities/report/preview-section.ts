import type { SamplePreview } from '../../contracts/stages.js';
import { html, type Html } from './html.js';
import { counted } from './numbers.js';

/** The first training row, token by token, with the trained ones marked. */
export function previewSection({ tokens }: SamplePreview): Html {
  const trained = tokens.filter(({ trained }) => trained).length;
  return html`<div class="card long">
<p class="quiet">The first training row as the model sees it: ${counted(tokens.length, 'token')}, of which the loss counts the <span class="sample-key">${trained} marked ones</span>. A line end is shown as ↵.</p>
<p class="tokens">${tokens.map(({ id, text, trained }) => html`<span${trained ? html` class="trained"` : undefined} title="token ${id}${trained ? ', trained' : ''}">${text.replace(/\n/g, '↵\n')}</span>`)}</p>
</div>`;
}
