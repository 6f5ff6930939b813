//! What a template is and what it reads, without rendering it: minijinja's own syntax tree, walked.

use std::{collections::HashSet, ops::Range};

use minijinja::machinery::{ast, parse, tokenize};

/// A template that has been parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Template {
    /// Whether the text is one expression and nothing else.
    pub(in crate::model) shape: Shape,
    /// What it uses, in the order of the text.
    pub(in crate::model) uses: Vec<Use>,
}

/// Whether a template renders to text or keeps the type of its expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) enum Shape {
    /// Exactly one `{{ expression }}`; the range is the expression.
    Lone(Range<usize>),
    /// Anything else.
    Text,
}

/// One thing a template uses, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Use {
    pub(in crate::model) what: What,
    pub(in crate::model) span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) enum What {
    /// A value by its path, such as `outputs`, `land`, `manifest`; a part that is only known at run time ends it.
    Path(Vec<String>),
    /// `… | name`.
    Filter(String),
    /// `… is name`.
    Test(String),
    /// `name(…)`.
    Function(String),
    /// `….name(…)`.
    Method(String),
}

/// A template that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct SyntaxError {
    pub(in crate::model) message: String,
    pub(in crate::model) span: Range<usize>,
}

/// The parser nests as deep as an expression is long, so its length bounds the stack it takes.
const MOST_TOKENS: usize = 1_000;

const STATEMENTS: [&str; 14] = [
    "if",
    "elif",
    "else",
    "endif",
    "for",
    "endfor",
    "set",
    "endset",
    "with",
    "endwith",
    "filter",
    "raw",
    "do",
    "autoescape",
];

/// Says whether a text is a template: it contains `{{`, or `{%` with a statement. A lone `{%s}` of printf is neither.
pub(in crate::model) fn is_template(text: &str) -> bool {
    text.contains("{{")
        || text.match_indices("{%").any(|(position, _)| {
            let after = text[position + 2..].trim_start_matches(['-', '+']);
            let word: String = after
                .trim_start()
                .chars()
                .take_while(char::is_ascii_alphabetic)
                .collect();
            after.starts_with(char::is_whitespace) || STATEMENTS.contains(&word.as_str())
        })
}

/// Whether a text is exactly one `{{ expression }}`, whose value keeps its type.
pub(in crate::model) fn is_lone(text: &str) -> bool {
    read(text).is_ok_and(|template| matches!(template.shape, Shape::Lone(_)))
}

/// Parses a template and finds everything it uses.
pub(in crate::model) fn read(text: &str) -> Result<Template, SyntaxError> {
    let mut tokens = 0;
    for token in tokenize(text, false, super::syntax()) {
        token.map_err(|error| syntax_error(&error, text))?;
        tokens += 1;
        if tokens > MOST_TOKENS {
            return Err(SyntaxError {
                message: format!("the template has more than {MOST_TOKENS} words and signs"),
                span: 0..text.len(),
            });
        }
    }
    let tree = parse(text, "", super::syntax()).map_err(|error| syntax_error(&error, text))?;
    let mut walk = Walk {
        text,
        uses: Vec::new(),
        scopes: vec![HashSet::new()],
    };
    walk.statement(&tree);
    Ok(Template {
        shape: shape(&tree, text),
        uses: walk.uses,
    })
}

fn syntax_error(error: &minijinja::Error, text: &str) -> SyntaxError {
    let span = error
        .range()
        .filter(|range| text.get(range.clone()).is_some())
        .unwrap_or(0..text.len());
    SyntaxError {
        message: error.detail().unwrap_or("syntax error").to_owned(),
        span,
    }
}

fn shape(tree: &ast::Stmt<'_>, text: &str) -> Shape {
    let ast::Stmt::Template(template) = tree else {
        return Shape::Text;
    };
    if !matches!(template.children.as_slice(), [ast::Stmt::EmitExpr(_)]) {
        return Shape::Text;
    }
    // Text before or after the braces would have been a statement of its own, a comment or trimmed space is not.
    let Some(inner) = text
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
    else {
        return Shape::Text;
    };
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let start = text.len() - 2 - inner.len();
    let inner = inner.strip_suffix(['-', '+']).unwrap_or(inner);
    Shape::Lone(start..start + inner.len())
}

/// Keeps track of the names a template defines itself.
struct Walk<'t> {
    text: &'t str,
    uses: Vec<Use>,
    scopes: Vec<HashSet<&'t str>>,
}

impl<'t> Walk<'t> {
    fn is_own(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.contains(name))
    }

    fn used(&mut self, what: What, span: minijinja::machinery::Span) {
        let start = usize::try_from(span.start_offset).unwrap_or(usize::MAX);
        let end = usize::try_from(span.end_offset).unwrap_or(usize::MAX);
        let span = if self.text.get(start..end).is_some() {
            start..end
        } else {
            0..self.text.len()
        };
        self.uses.push(Use { what, span });
    }

    fn define(&mut self, target: &ast::Expr<'t>) {
        match target {
            ast::Expr::Var(name) => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.insert(name.id);
                }
            }
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.define(item)),
            ast::Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.define(item)),
            // `{% set ns.x = … %}` changes a namespace that is defined already.
            _ => self.expression(target),
        }
    }

    fn block(&mut self, body: &[ast::Stmt<'t>]) {
        self.scopes.push(HashSet::new());
        body.iter().for_each(|statement| self.statement(statement));
        self.scopes.pop();
    }

    fn statement(&mut self, statement: &ast::Stmt<'t>) {
        match statement {
            ast::Stmt::Template(template) => template
                .children
                .iter()
                .for_each(|child| self.statement(child)),
            ast::Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            ast::Stmt::EmitRaw(_) => {}
            ast::Stmt::ForLoop(each) => {
                self.expression(&each.iter);
                self.scopes.push(HashSet::from(["loop"]));
                self.define(&each.target);
                each.filter_expr
                    .iter()
                    .for_each(|filter| self.expression(filter));
                each.body.iter().for_each(|child| self.statement(child));
                self.scopes.pop();
                self.block(&each.else_body);
            }
            ast::Stmt::IfCond(condition) => {
                self.expression(&condition.expr);
                // What a branch sets is seen after it.
                condition
                    .true_body
                    .iter()
                    .for_each(|child| self.statement(child));
                condition
                    .false_body
                    .iter()
                    .for_each(|child| self.statement(child));
            }
            ast::Stmt::WithBlock(with) => {
                self.scopes.push(HashSet::new());
                for (target, value) in &with.assignments {
                    self.expression(value);
                    self.define(target);
                }
                with.body.iter().for_each(|child| self.statement(child));
                self.scopes.pop();
            }
            ast::Stmt::Set(set) => {
                self.expression(&set.expr);
                self.define(&set.target);
            }
            ast::Stmt::SetBlock(set) => {
                set.filter.iter().for_each(|filter| self.expression(filter));
                self.block(&set.body);
                self.define(&set.target);
            }
            ast::Stmt::AutoEscape(escape) => {
                self.expression(&escape.enabled);
                self.block(&escape.body);
            }
            ast::Stmt::FilterBlock(filter) => {
                self.expression(&filter.filter);
                self.block(&filter.body);
            }
            ast::Stmt::Do(call) => self.call(&call.call, call.call.span()),
        }
    }

    fn expression(&mut self, expression: &ast::Expr<'t>) {
        match expression {
            ast::Expr::Var(_) | ast::Expr::GetAttr(_) | ast::Expr::GetItem(_) => {
                self.path(expression)
            }
            ast::Expr::Const(_) => {}
            ast::Expr::Slice(slice) => {
                self.expression(&slice.expr);
                [&slice.start, &slice.stop, &slice.step]
                    .into_iter()
                    .flatten()
                    .for_each(|part| self.expression(part));
            }
            ast::Expr::UnaryOp(operation) => self.expression(&operation.expr),
            ast::Expr::BinOp(operation) => {
                self.expression(&operation.left);
                self.expression(&operation.right);
            }
            ast::Expr::Compare(comparison) => {
                self.expression(&comparison.expr);
                comparison
                    .ops
                    .iter()
                    .for_each(|operation| self.expression(&operation.expr));
            }
            ast::Expr::IfExpr(choice) => {
                self.expression(&choice.true_expr);
                self.expression(&choice.test_expr);
                choice
                    .false_expr
                    .iter()
                    .for_each(|otherwise| self.expression(otherwise));
            }
            ast::Expr::Filter(filter) => {
                filter.expr.iter().for_each(|value| self.expression(value));
                self.used(What::Filter(filter.name.to_owned()), expression.span());
                self.arguments(&filter.args);
            }
            ast::Expr::Test(test) => {
                self.expression(&test.expr);
                self.used(What::Test(test.name.to_owned()), expression.span());
                self.arguments(&test.args);
            }
            ast::Expr::Call(call) => self.call(call, expression.span()),
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.expression(item)),
            ast::Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expression(item)),
            ast::Expr::Map(map) => map
                .keys
                .iter()
                .chain(&map.values)
                .for_each(|part| self.expression(part)),
        }
    }

    fn call(&mut self, call: &ast::Call<'t>, span: minijinja::machinery::Span) {
        match &call.expr {
            ast::Expr::Var(name) if !self.is_own(name.id) => {
                self.used(What::Function(name.id.to_owned()), span)
            }
            ast::Expr::GetAttr(attribute) if !matches!(&attribute.expr, ast::Expr::Var(root) if self.is_own(root.id)) =>
            {
                self.expression(&attribute.expr);
                self.used(What::Method(attribute.name.to_owned()), span);
            }
            called => self.expression(called),
        }
        self.arguments(&call.args);
    }

    fn arguments(&mut self, arguments: &[ast::CallArg<'t>]) {
        for argument in arguments {
            match argument {
                ast::CallArg::Pos(value)
                | ast::CallArg::Kwarg(_, value)
                | ast::CallArg::PosSplat(value)
                | ast::CallArg::KwargSplat(value) => self.expression(value),
            }
        }
    }

    /// Follows `a.b["c"]` down to its root.
    fn path(&mut self, expression: &ast::Expr<'t>) {
        // From the last part to the first; a part that is not known here forgets what came after it.
        let mut parts: Vec<String> = Vec::new();
        let mut known = expression;
        let mut inner = expression;
        loop {
            match inner {
                ast::Expr::GetAttr(attribute) => {
                    parts.push(attribute.name.to_owned());
                    inner = &attribute.expr;
                }
                ast::Expr::GetItem(item) => {
                    match &item.subscript_expr {
                        ast::Expr::Const(key) if key.value.as_str().is_some() => {
                            parts.extend(key.value.as_str().map(str::to_owned));
                        }
                        subscript => {
                            parts.clear();
                            known = &item.expr;
                            self.expression(subscript);
                        }
                    }
                    inner = &item.expr;
                }
                ast::Expr::Var(root) => {
                    if !self.is_own(root.id) {
                        parts.push(root.id.to_owned());
                        parts.reverse();
                        // The parser has the span of `a.b` begin at the dot.
                        let mut span = root.span();
                        span.end_offset = span.end_offset.max(known.span().end_offset);
                        self.used(What::Path(parts), span);
                    }
                    return;
                }
                other => return self.expression(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        read(text)
            .expect(text)
            .uses
            .into_iter()
            .filter_map(|used| match used.what {
                What::Path(parts) => Some(format!("{} @ {}", parts.join("/"), &text[used.span])),
                What::Filter(_) | What::Test(_) | What::Function(_) | What::Method(_) => None,
            })
            .collect()
    }

    #[test]
    fn every_way_to_write_a_path_is_found_with_its_place() {
        assert_eq!(
            paths("{{ outputs.land.manifest }}"),
            ["outputs/land/manifest @ outputs.land.manifest"]
        );
        assert_eq!(
            paths("a {{ outputs['land-it'].manifest }}"),
            ["outputs/land-it/manifest @ outputs['land-it'].manifest"]
        );
        assert_eq!(
            paths("{{ outputs[\"a\"][\"b\"][0].c }}"),
            ["outputs/a/b @ outputs[\"a\"][\"b\"]"]
        );
        assert_eq!(
            paths("{{ outputs[params.t].x }}"),
            ["params/t @ params.t", "outputs @ outputs"]
        );
        assert_eq!(
            paths("{{ [params.a, {'k': params.b}] | tojson }}"),
            ["params/a @ params.a", "params/b @ params.b"]
        );
        assert_eq!(
            paths("é{{ x ~ params.a }}"),
            ["x @ x", "params/a @ params.a"]
        );
    }

    #[test]
    fn names_that_a_template_defines_are_its_own() {
        assert_eq!(
            paths("{% for x in params.l %}{{ x.y }}{{ loop.index }}{% endfor %}{{ x }}"),
            ["params/l @ params.l", "x @ x"]
        );
        assert_eq!(
            paths("{% set a = ds %}{{ a }}{{ b }}"),
            ["ds @ ds", "b @ b"]
        );
        assert_eq!(
            paths("{% if ds %}{% set a = 1 %}{% endif %}{{ a }}"),
            ["ds @ ds"]
        );
    }

    #[test]
    fn a_lone_expression_is_told_from_text() {
        for (text, expression) in [
            ("{{ params.x }}", Some(" params.x ")),
            ("{{- params.x -}}", Some(" params.x ")),
            ("{{-1}}", Some("1")),
            ("{{ '}}' }}", Some(" '}}' ")),
        ] {
            let Shape::Lone(span) = read(text).expect(text).shape else {
                panic!("{text} is lone")
            };
            assert_eq!(Some(&text[span]), expression);
        }
        for text in [
            " {{ params.x }}",
            "{{ a }}{{ b }}",
            "{{ a }}\n",
            "{% if ds %}{{ a }}{% endif %}",
        ] {
            assert_eq!(read(text).expect(text).shape, Shape::Text, "{text}");
        }
    }

    #[test]
    fn what_shells_write_is_no_template() {
        for text in [
            "printf '{%s}\\n' x",
            "echo ${x%%.*} ${#x}",
            "{#",
            "awk '{print $1}'",
            "{%d}",
        ] {
            assert!(!is_template(text), "{text}");
        }
        for text in [
            "{{ x }}",
            "{% if x %}a{% endif %}",
            "{%- for x in y %}",
            "{%if x%}",
        ] {
            assert!(is_template(text), "{text}");
        }
    }

    #[test]
    fn a_very_long_expression_is_refused_and_not_followed() {
        let text = format!("{{{{ 1{} }}}}", "+1".repeat(100_000));
        assert!(
            read(&text)
                .expect_err("too long")
                .message
                .contains("more than 1000")
        );
        let text = format!("{{{{ 1{} }}}}", "+1".repeat(498));
        read(&text).expect("just short enough");
    }
}
