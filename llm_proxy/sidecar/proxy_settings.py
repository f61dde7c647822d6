"""LiteLLM's settings of its proxy: the sections `general_settings`, `litellm_settings` and the file itself.

Invariants: the first rule of a section that matches a key decides; every key that the pinned release knows
matches one, and no rule matches none.
"""

from llm_proxy.sidecar.setting_outcomes import (
    EFFECT,
    GENERAL,
    HONOURED,
    LITELLM,
    NEEDS_ACCOUNT,
    NEW_REQUEST,
    NO_ADMIN,
    NO_DATABASE,
    OUR_ALERTS,
    OUR_BUDGETS,
    OUR_HEALTH,
    OUR_KEYS,
    OUR_LEDGER,
    OUR_LIMITS,
    OUR_PATHS,
    OWN_STATE,
    PASSED_ON,
    RENAMED,
    REPLACED,
    STAGE,
    TOP,
    UNAVAILABLE,
    SettingRule,
)

PROXY_SETTINGS = (
    SettingRule(
        TOP, "model_list", HONOURED, f"{STAGE}/test_litellm_config.py::test_every_deployment_answers_a_call"
    ),
    SettingRule(
        TOP, "include", HONOURED, f"{STAGE}/test_launch.py::test_an_included_file_has_the_same_rules"
    ),
    SettingRule(
        TOP, "guardrails", HONOURED, f"{STAGE}/test_guardrails.py::test_a_blocked_prompt_reaches_no_provider"
    ),
    SettingRule(
        TOP,
        "credential_list",
        HONOURED,
        f"{STAGE}/test_owners_files.py::test_a_credential_of_the_list_reaches_the_provider",
    ),
    SettingRule(
        TOP, "environment_variables", HONOURED, f"{STAGE}/test_owners_files.py::test_it_starts_and_answers"
    ),
    SettingRule(
        TOP,
        "general_settings litellm_settings router_settings",
        HONOURED,
        f"{STAGE}/test_owners_files.py::test_it_starts_and_answers",
    ),
    SettingRule(
        TOP, "policies policy_attachments callback_settings default_vertex_config", HONOURED, PASSED_ON
    ),
    SettingRule(TOP, "prompts", UNAVAILABLE, "a stored prompt could choose the model"),
    SettingRule(
        TOP,
        "force_reload interval_hours",
        UNAVAILABLE,
        "prices are those of the pinned release, or the file's",
    ),
    SettingRule(
        TOP,
        "mcp_servers mcp_tools agent_list agents assistant_settings files_settings finetune_settings"
        " vector_store_registry search_tools sandbox_tools worker_registry",
        UNAVAILABLE,
        OUR_PATHS,
    ),
    SettingRule(
        GENERAL,
        "master_key",
        RENAMED,
        "`LITELLM_MASTER_KEY`, a caller's credential and no admin's; `up` reads it from the file, too",
    ),
    SettingRule(GENERAL, "database_url", RENAMED, f"{NO_DATABASE}; the gateway's is `DATABASE_URL`"),
    SettingRule(GENERAL, "store_model_in_db", UNAVAILABLE, f"{NO_DATABASE}: models are the file's"),
    SettingRule(
        GENERAL,
        "database_.* use_redis_transaction_buffer proxy_batch_write_at proxy_budget_rescheduler_.*"
        " allow_requests_on_db_unavailable disable_prisma_schema_update supported_db_objects"
        " disable_reset_budget encryption_algorithm proxy_config_reload_interval_seconds"
        " scheduled_job_stagger"
        " maximum_(?!spend_logs).*_retention_period",
        UNAVAILABLE,
        NO_DATABASE,
    ),
    SettingRule(
        GENERAL,
        ".*spend_logs.* disable_spend_updates disable_error_logs spend_report_frequency"
        " spend_capture_rate_check",
        REPLACED,
        OUR_LEDGER,
    ),
    SettingRule(
        GENERAL,
        "custom_auth custom_auth_run_common_checks enable_jwt_auth litellm_jwtauth enable_oauth2_auth"
        " enable_oauth2_proxy_auth oauth2_config_mappings enforce_rbac role_permissions allow_user_auth"
        " service_account_settings custom_key_.* litellm_key_header_name",
        REPLACED,
        OUR_KEYS,
        protects=True,
    ),
    SettingRule(
        GENERAL,
        "user_api_key_cache_.* disable_custom_api_keys disable_key_generate_for_org_admin"
        " default_team_disabled"
        " disable_auto_add_proxy_admin_to_teams disable_master_key_return team_metadata_.*"
        " custom_team_metadata_validate use_team_public_model_name apply_user_budget_to_team_keys"
        " dangerously_permit_weak_or_unset_master_key team_admin_editable_team_fields",
        REPLACED,
        OUR_KEYS,
    ),
    SettingRule(
        GENERAL,
        "allowed_ips allowed_routes admin_only_routes public_routes enforce_user_param enforced_params"
        " reject_clientside_metadata_tags",
        UNAVAILABLE,
        "the sidecar answers the gateway alone, and the gateway has no such rule",
        protects=True,
    ),
    SettingRule(GENERAL, "use_x_forwarded_for trusted_proxy_ranges", RENAMED, "`LLM_PROXY__TRUSTED_PROXIES`"),
    SettingRule(GENERAL, "max_request_size_mb", RENAMED, "`LLM_PROXY__MAX_BODY_BYTES`", protects=True),
    SettingRule(GENERAL, "max_response_size_mb", UNAVAILABLE, "answers have no such limit", protects=True),
    SettingRule(GENERAL, "admission_queue_timeout_seconds", RENAMED, "`LLM_PROXY__QUEUE_TIMEOUT_MS`"),
    SettingRule(
        GENERAL,
        "max_parallel_requests global_max_parallel_requests max_in_flight_requests_per_worker"
        " max_queued_requests_per_worker fail_closed_budget_enforcement fail_closed_rate_limit_enforcement",
        REPLACED,
        OUR_LIMITS,
        protects=True,
    ),
    SettingRule(
        GENERAL,
        "token_rate_limit_type disable_budget_reservation disable_fallbacks_on_per_model_rate_limits"
        " disable_retry_on_max_parallel_request_limit_error",
        REPLACED,
        OUR_LIMITS,
    ),
    SettingRule(
        GENERAL,
        "enforce_fallback_model_access",
        REPLACED,
        "always so: a call falls back to what its caller may use",
    ),
    SettingRule(GENERAL, "alerting alerting_.* alert_.* slack ms_teams email", REPLACED, OUR_ALERTS),
    SettingRule(
        GENERAL,
        "pass_through_.* passthrough_.* max_file_.* (allowed|blocked)_file_extensions .*batch.*"
        " .*response_?s?_.*id.* responses_.* enable_openai_websocket_passthrough .*vector_store.*"
        " search_tool.*"
        " agent_.* .*agent_runtime.* transcribe_media_buckets completion_model plugins control_plane_url"
        " .*claude_code.* infer_model_from_keys enable_public_model_hub",
        UNAVAILABLE,
        OUR_PATHS,
    ),
    SettingRule(
        GENERAL,
        "ui_.* custom_sso custom_ui_.* .*_ui_.* .*sso.* password_policy_.* .*login.*"
        " hide_default_credentials_hint enforce_rpm_tpm_on_model_add",
        UNAVAILABLE,
        NO_ADMIN,
    ),
    SettingRule(GENERAL, "mcp_.* require_.*_mcp_.* user_mcp_.*", UNAVAILABLE, "no MCP is served"),
    SettingRule(
        GENERAL,
        "cancel_on_disconnect disable_model_info_refresh background_health_checks",
        REPLACED,
        "always set by the sidecar",
    ),
    SettingRule(
        GENERAL,
        "background_health_check_.* .*health_check.* health_check_.* model_list_healthy_only"
        " allow_public_health_readiness_details",
        REPLACED,
        OUR_HEALTH,
    ),
    SettingRule(
        GENERAL,
        "enable_drain_endpoint drain_endpoint_token",
        REPLACED,
        "the gateway drains on SIGTERM, for LLM_PROXY__DRAIN_TIMEOUT_S (docs/deployment.md)",
    ),
    SettingRule(
        GENERAL,
        "forward_client_headers_to_llm_api forward_openai_org_id forward_llm_provider_auth_headers"
        " user_header_.*"
        " disable_requester_ip_address_logging allow_client_side_credentials missing_session_id",
        UNAVAILABLE,
        NEW_REQUEST,
    ),
    SettingRule(
        GENERAL,
        "include_call_id_in_error_body expose_fallback_errors_to_caller always_include_stream_usage",
        REPLACED,
        "the gateway renders answers and errors (docs/dialects.md), with `x-request-id`",
    ),
    SettingRule(
        GENERAL,
        "user_url_validation user_url_allowed_hosts provider_url_destination_allowed_hosts",
        REPLACED,
        "links into private networks are refused (`LLM_PROXY__PRIVATE_LINKS`)",
    ),
    SettingRule(
        GENERAL,
        "key_management_.* use_azure_key_vault use_google_kms",
        UNAVAILABLE,
        "keys come from the environment or `.keys/`",
    ),
    SettingRule(GENERAL, "coordination_redis", RENAMED, "`CACHE_REDIS_URL`"),
    SettingRule(GENERAL, "otel tracing", REPLACED, "the gateway's own tracing (docs/operations.md)"),
    SettingRule(GENERAL, "litellm_license", HONOURED, "not seen here: it needs a licence"),
    SettingRule(
        GENERAL,
        "dangerously_allow_mock_testing_request_params",
        HONOURED,
        "not seen here: the gateway refuses a caller's mock parameters",
    ),
    SettingRule(
        LITELLM,
        "max_budget budget_duration max_(end_)?user_budget(_id)? max_internal_user_budget tag_budget_config"
        " internal_user_budget_duration default_max_internal_user_budget max_ui_session_budget"
        " priority_reservation.*"
        " budget_exceeded_.*",
        REPLACED,
        OUR_BUDGETS,
        protects=True,
    ),
    SettingRule(
        LITELLM,
        "budget_reset_time budget_rollover default_soft_budget disable_end_user_cost_tracking",
        REPLACED,
        OUR_BUDGETS,
    ),
    SettingRule(
        LITELLM,
        "block_requests_for_models_without_pricing",
        UNAVAILABLE,
        "unpriced calls are counted (docs/records.md)",
        protects=True,
    ),
    SettingRule(
        LITELLM,
        "banned_keywords_list blocked_user_list",
        UNAVAILABLE,
        "part of LiteLLM's enterprise package: write a guardrail, or a kill switch (docs/admin.md)",
        protects=True,
    ),
    SettingRule(
        LITELLM,
        "validate_end_user_id_in_db enable_post_custom_auth_checks",
        REPLACED,
        OUR_KEYS,
        protects=True,
    ),
    SettingRule(
        LITELLM,
        "upperbound_key_generate_params default_key_.* key_generation_settings default_internal_user_params"
        " default_team_params default_team_settings enable_key_alias_format_validation key_alias_pattern"
        " personal_key_model_access_from_teams scim_.* overwrite_user_with_key_hash enable_redis_auth_cache"
        " redact_user_api_key_info log_auth_failure_key_identity",
        REPLACED,
        OUR_KEYS,
    ),
    SettingRule(
        LITELLM, ".*prometheus.* require_auth_for_metrics_endpoint", REPLACED, "the gateway's `/metrics`"
    ),
    SettingRule(
        LITELLM,
        "store_audit_logs audit_log_callbacks s3_audit_.*",
        REPLACED,
        "the gateway's audit log (docs/admin.md)",
    ),
    SettingRule(LITELLM, "model_alias_map", RENAMED, "`router_settings.model_group_alias`"),
    SettingRule(LITELLM, "model_fallbacks", UNAVAILABLE, "refused: write `router_settings.fallbacks`"),
    SettingRule(LITELLM, "email", REPLACED, OUR_ALERTS),
    SettingRule(
        LITELLM,
        "include_cost_in_streaming_usage enable_caching_on_provider_specific_optional_params"
        " expose_router_debug_in_errors disable_hf_tokenizer_download",
        REPLACED,
        "always set by the sidecar",
    ),
    SettingRule(
        LITELLM,
        "model_cost_map_url blog_posts_url anthropic_beta_headers_url autorouter_presets_url model_cost"
        " network_mock",
        UNAVAILABLE,
        "prices and tables are those of the pinned release; a deployment's own stand in its `model_info`",
    ),
    SettingRule(
        LITELLM,
        "mcp_.* default_mcp_.* public_.* agent_search_.* skill_search_.* vector_store_.* batch_line_.*"
        " require_managed_files enable_loadbalancing_on_batch_endpoints disable_vertex_batch_.*"
        " .*real_?time.* gemini_live_.*"
        " websearch_interception_params code_interpreter_.* apply_search_.* responses"
        " check_provider_endpoint",
        UNAVAILABLE,
        OUR_PATHS,
    ),
    SettingRule(
        LITELLM,
        "add_user_information_to_llm_headers forward_.* extra_spend_tag_headers"
        " allow_dynamic_callback_disabling"
        " global_disable_no_log_param",
        UNAVAILABLE,
        NEW_REQUEST,
    ),
    SettingRule(
        LITELLM,
        "user_url_validation user_url_allowed_hosts provider_url_destination_allowed_hosts",
        REPLACED,
        "links into private networks are refused (`LLM_PROXY__PRIVATE_LINKS`)",
    ),
    SettingRule(
        LITELLM,
        "sse_keepalive_.* anthropic_sse_.* return_response_headers filter_invalid_headers strip_anthropic_.*"
        " request_correlation_in_logs",
        REPLACED,
        "the gateway renders answers and streams (docs/dialects.md)",
    ),
    SettingRule(
        LITELLM,
        "a?client_session adapters azure_llms base_llm_.* caching(_with_models)? common_cloud_.*"
        " config_path encoding"
        " error_logs in_memory_.* initialized_.* litellm_mode logging model_list.* models_by_provider"
        " (prompt|guardrail)_name_config_map request_timeout_explicitly_set retry secret_manager_client"
        " token use_client"
        " sync_transport use_litellm_proxy proxy_auth project dynamodb_table_name"
        " longer_context_.*"
        " num_retries_per_request max_fallbacks cold_storage_.*",
        UNAVAILABLE,
        OWN_STATE,
    ),
    SettingRule(
        LITELLM,
        "num_retries",
        HONOURED,
        f"{STAGE}/test_owners_files.py::test_no_retries_of_the_file_win_over_our_default",
    ),
    SettingRule(
        LITELLM,
        "request_timeout",
        HONOURED,
        "tests/flow/test_owner_timeouts.py::test_the_gateway_waits_as_long_as_the_file_says",
    ),
    SettingRule(LITELLM, "default_fallbacks fallbacks", HONOURED, f"{EFFECT}::test_default_fallbacks_answer"),
    SettingRule(
        LITELLM,
        "context_window_fallbacks content_policy_fallbacks",
        HONOURED,
        f"{STAGE}/test_routing.py::test_an_overlong_prompt_uses_context_window_fallbacks",
    ),
    SettingRule(
        LITELLM,
        "allowed_fails",
        HONOURED,
        f"{STAGE}/test_routing.py::test_another_deployment_serves_while_one_cools_down",
    ),
    SettingRule(
        LITELLM, "drop_params", HONOURED, f"{EFFECT}::test_a_field_is_dropped_where_the_file_says_so"
    ),
    SettingRule(
        LITELLM,
        "cache cache_params",
        HONOURED,
        f"{STAGE}/test_response_cache.py::test_the_configuration_s_own_redis_is_used_as_configured",
    ),
    SettingRule(
        LITELLM,
        "callbacks (success|failure|input|service)_callback",
        HONOURED,
        f"{EFFECT}::test_callbacks_see_what_became_of_calls",
    ),
    SettingRule(
        LITELLM,
        "custom_provider_map",
        HONOURED,
        f"{STAGE}/test_own_provider.py::test_the_service_answers_with_its_own_token_counts",
    ),
    SettingRule(
        LITELLM,
        "langfuse_.* turn_off_message_logging",
        HONOURED,
        f"{STAGE}/test_langfuse.py::test_text_is_sent_only_of_tenants_whose_text_is_stored",
    ),
    SettingRule(
        LITELLM,
        "guardrails",
        HONOURED,
        f"{STAGE}/test_guardrails.py::test_a_blocked_prompt_reaches_no_provider",
    ),
    SettingRule(
        LITELLM,
        "openai_key api_key",
        HONOURED,
        f"{EFFECT}::test_a_key_of_the_settings_is_used_where_a_deployment_has_none",
    ),
    SettingRule(
        LITELLM,
        ".*_key .*_api_base api_base api_version organization predibase_tenant_id vertex_.* azure_key"
        " headers credential_list enable_azure_ad_token_refresh enable_model_config_credential_overrides",
        HONOURED,
        NEEDS_ACCOUNT,
    ),
    SettingRule(
        LITELLM,
        "argilla_.* aws_sqs_.* callback_settings datadog_.* gcs_pub_.* generic_api_.* generic_logger_headers"
        " langsmith_.* newrelic_.* pointfive_.* s3_callback_params zerobus_params otel_tenant_.*"
        " standard_logging_payload_excluded_fields redact_messages_in_exceptions disable_streaming_logging",
        HONOURED,
        "not seen here: it needs the observer's service",
    ),
    SettingRule(
        LITELLM,
        "(pre|post)_call_rules output_parse_pii presidio_.* llamaguard_.* llm_guard_mode google_moderation_.*"
        " openai_moderations_.* prompt_injection_params azure_content_safety_params skip_.*_in_guardrail",
        HONOURED,
        "not seen here: of guardrails in LiteLLM's older form; write `guardrails`",
    ),
    SettingRule(
        LITELLM,
        "set_verbose json_logs log_level log_client_error_tracebacks log_raw_request_response"
        " suppress_debug_info"
        " safe_memory_mode disable_token_counter timezone",
        HONOURED,
        "not seen here: of LiteLLM's log alone",
    ),
    SettingRule(
        LITELLM,
        "ssl_.* force_ipv4 http2 .*aiohttp.* modify_params max_tokens add_function_to_prompt"
        " custom_prompt_dict"
        " disable_.* bedrock_.* cost_(discount|margin)_config default_in_memory_ttl default_redis_.*"
        " force_redis_hash_tag_grouping enable_anthropic_prompt_caching anthropic_prompt_caching_ttl"
        " enable_gemini_.*"
        " gemini_include_.* enable_json_schema_validation enable_preview_features global_.*"
        " compression_interception_params"
        " model_group_settings openai_system_messages_first reasoning_auto_summary"
        " route_all_chat_openai_to_responses"
        " use_chat_completions_url_for_anthropic_messages",
        HONOURED,
        PASSED_ON,
    ),
)
