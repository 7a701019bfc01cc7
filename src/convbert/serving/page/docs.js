// The interface as openapi.json describes it: a card for each route, with the fields of its request, and its reply.
function element(tag, text, ...children) {
  const made = document.createElement(tag);
  made.append(...(text === undefined ? [] : [text]), ...children);
  return made;
}

const api = await (await fetch("openapi.json")).json();
const resolve = (schema) => (schema.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema);

function typeOf(schema) {
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `[${typeOf(schema.items)}, …]`;
  const { properties, title } = resolve(schema);
  return properties ? `{${Object.entries(properties).map(([name, field]) => `${name}: ${typeOf(field)}`).join(", ")}}`
    : schema.type ?? title;
}

function fieldsOf(schema) {
  const { properties, required = [] } = resolve(schema);
  const rows = Object.entries(properties).map(([name, field]) => {
    const isSimple = field.default !== undefined && typeof field.default !== "object";
    const note = required.includes(name) ? ", needed" : isSimple ? `; ${JSON.stringify(field.default)} by default` : "";
    return element("li", undefined, element("code", name), `: ${typeOf(field)}${note}`);
  });
  return element("ul", undefined, ...rows);
}

const cards = Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => {
  const made = element("div", undefined, element("h2", `${method.toUpperCase()} ${path}`), element("p", route.description));
  made.className = "card";
  const body = route.requestBody?.content["application/json"].schema;
  const reply = route.responses["200"].content?.["application/json"]?.schema;
  if (body) made.append(fieldsOf(body), element("p", `Reply: ${typeOf(reply)}`));
  return made;
}));
document.getElementById("routes").replaceChildren(...cards);
