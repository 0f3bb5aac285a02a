//! A layer without a scope is not a layer.

#[test]
fn leaving_out_the_scope_does_not_compile() {
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/no_scope_*.rs");
    tests.pass("tests/ui/scoped.rs");
}
