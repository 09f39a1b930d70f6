// What a plan removes, summed over the parts that it changes and over the full model.

const { make, on, amount, change, phrase } = window.prunescope;

function cell(text, more) {
  const td = make('td');
  td.append(make('strong', '', text), make('small', '', more));
  return td;
}

function row(name, ...cells) {
  const tr = make('tr'), head = make('th', '', name);
  head.scope = 'row';
  tr.append(head, ...cells);
  return tr;
}

function pair([before, after]) { return cell(change(before, after), `${amount(before)} → ${amount(after)}`); }

on('plan', ({ sums }) => {
  const rows = sums.rows.map((r) => row(r.name, cell(`${r.heads[0]} of ${r.heads[1]}`, ''), pair(r.parameters), pair(r.flops)));
  rows.push(row('full model', cell('–', ''), cell('–', ''), pair(sums.full)));
  element.querySelector('tbody').replaceChildren(...rows);
  element.querySelector('.ps-sums-note').textContent = phrase('sumsHow', sums);
});
